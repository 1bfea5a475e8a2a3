"""Nothing of a client's data is in what travels, nor in anything that is written on the server.

Canaries: the path of the pictures, a file's name, a comment in a picture, its pixels, the name of a
class that the run does not have, and the text of an exception.
"""

import sqlite3
import subprocess
import sys
import tomllib

import numpy as np
import poison
import pytest
import tomli_w
from machines import TESTS, free_ports, machines
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fedadapt.deploy.bundle import open_bundle
from fedadapt.deploy.sample_pictures import write_pictures

pytestmark = pytest.mark.deployment

CANARIES = {
    "path": b"canary-of-a-path",
    "file": b"canary-of-a-file-name",
    "comment": b"canary-of-a-picture",
    "label": b"canary-of-a-label",
    "exception": b"canary-of-an-exception",
}
CLIENTS = ("client-1", "client-2", "client-3")


def plant(folder):
    """Canaries in the pictures of the second and of the third client; the pixels of one."""
    write_pictures(folder, CLIENTS, 40)
    pixels = np.random.default_rng(7).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    comment = PngInfo()
    comment.add_text("Comment", CANARIES["comment"].decode())
    name = f"{CANARIES['file'].decode()}.png"
    Image.fromarray(pixels).save(folder / "client-2" / "3" / name, pnginfo=comment)
    other = folder / "client-3" / CANARIES["label"].decode()
    other.mkdir()
    Image.fromarray(pixels[::-1]).save(other / "a.png")
    return pixels


def through_recorder(bench, client, port, folder):
    """A client's bundle, whose server is the recorder."""
    settings, files = open_bundle(bench.deployment.bundles / f"{client}.tar")
    own = folder / client
    own.mkdir(parents=True)
    for name, content in files.items():
        (own / name).write_bytes(content)
    changed = tomllib.loads(files["client.toml"].decode()) | {"server": f"localhost:{port}"}
    (own / "client.toml").write_text(tomli_w.dumps(changed))
    assert settings["name"] == client
    return own


def test_no_canary_leaves_a_client(tmp_path):
    pictures = tmp_path / CANARIES["path"].decode()
    pixels = plant(pictures)
    with machines(tmp_path / "bench", 3) as bench:
        [port] = free_ports(1)
        tape = tmp_path / "tape"
        recording = subprocess.Popen(
            [sys.executable, TESTS / "recorder.py", bench.server, str(port), tape],
            env=bench.environment,
        )
        try:
            bench.start_server()
            (bench.folder / "client-1-1").write_text("raise")
            for name in CLIENTS:
                bench.start_client(
                    name, "--images", pictures / name, "--node-config", 'modules="poison"',
                    bundle=through_recorder(bench, name, port, tmp_path / "sticks"),
                )  # fmt: skip
            bench.wait_connected(*CLIENTS)
            code, said = bench.deploy(
                "run", bench.server, "--classes", "0,1,2,3,4,5,6,7,8,9", "--image-size", "12",
                "--model", "mlp", "--rounds", "2", "--local-epochs", "1", "--adapt", "none",
                "--no-local", "--strategy", "poison:Poisoned", "--min-replies", "0.3",
            )  # fmt: skip
        finally:
            bench.end_all()
            recording.terminate()
            recording.wait()
        assert code == 0, said
        assert "left out: client client-3" in said
        assert "refused:unknown-class" in said
        assert "client 0: error, crash:ValueError" in said
        # The canaries were there to be found: on the clients, and the tape has the answers.
        assert poison.CANARY in (bench.home("client-1") / "logs" / "client.log").read_text()
        recorded = tape.read_bytes()
        assert b"push-object" in recorded
        assert len(recorded) > 100_000
        texts = {tape: recorded, "said": said.encode()}
        texts |= {p: p.read_bytes() for p in bench.server.rglob("*") if p.is_file()}
        with sqlite3.connect(bench.deployment.database) as database:
            texts["database"] = "\n".join(database.iterdump()).encode()
        shapes = (pixels.tobytes(), pixels.transpose(2, 0, 1).tobytes())
        canaries = [*CANARIES.values(), *(shape[:48] for shape in shapes)]
        for place, text in texts.items():
            for canary in canaries:
                assert canary not in text, (place, canary)
                assert canary.hex().encode() not in text, (place, canary)
