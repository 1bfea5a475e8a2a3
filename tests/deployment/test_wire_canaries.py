"""Nothing of a client's data is in what leaves it, nor in anything that is written on the server.

Canaries: the path of the pictures, a file's name, a comment in a picture, its pixels, the name of a
class that the run does not have, and the text of an exception. What is looked through is all that
has left the clients in all tests of this folder that ran before, faults included.
"""

import sqlite3

import numpy as np
import poison
import pytest
from machines import PICTURES
from PIL import Image
from PIL.PngImagePlugin import PngInfo

pytestmark = pytest.mark.deployment

CANARIES = {
    "path": PICTURES.encode(),
    "file": b"canary-of-a-file-name",
    "comment": b"canary-of-a-picture",
    "label": b"canary-of-a-label",
    "exception": b"canary-of-an-exception",
}


@pytest.fixture
def planted(bench):
    """Canaries in the pictures of the second and of the third client; the pixels of one."""
    pixels = np.random.default_rng(7).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    comment = PngInfo()
    comment.add_text("Comment", CANARIES["comment"].decode())
    named = bench.pictures("client-2") / bench.classes[0] / f"{CANARIES['file'].decode()}.png"
    Image.fromarray(pixels).save(named, pnginfo=comment)
    other = bench.pictures("client-3") / CANARIES["label"].decode() / "a.png"
    other.parent.mkdir()
    Image.fromarray(pixels[::-1]).save(other)
    yield pixels
    named.unlink()
    other.unlink()
    other.parent.rmdir()


def test_no_canary_leaves_a_client(bench, planted):
    bench.plan("client-1", 1, "raise")
    code, said, _ = bench.run(
        "--strategy", "poison:Poisoned", "--rounds", "2", "--min-replies", "0.3"
    )
    assert code == 0, said
    assert "left out: client client-3" in said
    assert "refused:unknown-class" in said
    assert "client 0: error, crash:ValueError" in said
    # The canaries were there to be found: on the clients, and the tapes have the answers.
    assert poison.CANARY in bench.log("client-1")
    tapes = b"\n".join(path.read_bytes() for path in (bench.folder / "tape").iterdir())
    assert b"push-object" in tapes
    assert len(tapes) > 500_000
    texts = {"tapes": tapes, "said": said.encode()}
    texts |= {p: p.read_bytes() for p in bench.server.rglob("*") if p.is_file()}
    with sqlite3.connect(bench.deployment.database) as database:
        texts["database"] = "\n".join(database.iterdump()).encode()
    shapes = (planted.tobytes(), planted.transpose(2, 0, 1).tobytes())
    canaries = [*CANARIES.values(), *(shape[:48] for shape in shapes)]
    for place, text in texts.items():
        for canary in canaries:
            assert canary not in text, (place, canary)
            assert canary.hex().encode() not in text, (place, canary)
