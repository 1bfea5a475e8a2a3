"""Images in, classes out: the files are read as the run's benchmark reads its own."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from click.testing import CliRunner
from PIL import Image, ImageOps

from fedadapt.cli import main
from fedadapt.datasets.sources.decode import read_image
from fedadapt.errors import InputError
from fedadapt.saved_models.images import READINGS, read
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.results.parquet import read_evaluations

SETTINGS = {"benchmark": "digits-domains", "clients": 4, "lr": 0.2, "workers": 1, "rounds": 2,
            "model": "third_party:norm_cnn", "adapt": "none,adabn"}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        tiny.without_pictures(patch)
        folder = tmp_path_factory.mktemp("run")
        tiny.run(folder, **SETTINGS)
    return folder


def command(*words: object) -> str:
    """What a command prints; its one line if it refuses."""
    found = CliRunner().invoke(main, [str(word) for word in words])
    assert found.exit_code in (0, 2), found.output
    return found.output


def test_predict_reproduces_the_accuracy_of_every_client_and_adaptation(run, tmp_path):
    """From image files, through the command."""
    benchmark = assemble(tiny.config(**SETTINGS)).benchmark
    rows = [
        r
        for r in read_evaluations(run)
        if r.split == "test" and r.round == 2 and r.model != "local"
    ]  # trained for comparison, not kept
    assert len(rows) == 4 * 2
    for row in rows:
        test = benchmark.split(row.client).test
        paths = [tmp_path / f"{row.client}-{i}.png" for i in range(len(test))]
        for pixels, path in zip(test.inputs, paths, strict=True):
            Image.fromarray(pixels[0].numpy()).save(path)
        options = ["--client", row.client, "--adaptation", row.adaptation, "--json"]
        found = json.loads(command("predict", run, *paths, *options))
        assert [p["image"] for p in found] == [str(path) for path in paths]
        names = [benchmark.classes[label] for label in test.labels]
        right = [p["class"] == name for p, name in zip(found, names, strict=True)]
        assert sum(right) / len(right) == row.accuracy
        for p in found:
            assert p["confidence"] == max(p["probabilities"].values())
            assert sum(p["probabilities"].values()) == pytest.approx(1)


def test_a_table_shows_class_and_confidence(run, tmp_path):
    """Of an image of another size, colour and format."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    table = command("predict", run, "--client", 2, "--adaptation", "adabn", tmp_path / "photo.jpg")
    assert "base+adabn of client 2" in table
    assert "photo.jpg" in table.replace("\n", "")
    assert "confidence, %" in table
    table = command("predict", run / "models" / "base.safetensors", tmp_path / "photo.jpg")
    assert "base of all clients" in table


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--client", "9"], "client: 9; RUN has clients 0 to 3"),
        (["--client", "1", "--adaptation", "kd"], "RUN: no model personal+kd or base+kd of client"),
        (["--adaptation", "kd"], "RUN: personal+kd is a client's own model"),
        (["--client", "1"], "RUN/nothing.png: no such file; name an image"),
    ],
)
def test_what_cannot_be_is_one_line(run, words, line):
    found = CliRunner().invoke(main, ["predict", str(run), str(run / "nothing.png"), *words])
    assert found.exit_code == 2
    assert found.output.replace(str(run), "RUN").startswith(f"fedadapt: {line}")
    assert found.output.count("\n") == 1


def test_a_file_that_is_no_image_is_one_line(run):
    output = command("predict", run, run / "config.toml")
    assert output.endswith("is no readable image; any file that Pillow opens will do\n")
    assert output.count("\n") == 1


# How files are read


def picture(folder: Path, size: tuple[int, int], mode: str = "RGB", name: str = "a.png") -> Path:
    """A smooth picture, so that filters can be told apart and agree about its middle."""
    x, y = np.meshgrid(np.linspace(0, 200, size[0]), np.linspace(50, 250, size[1]))
    Image.fromarray(np.stack([x, y, 255 - y], -1).astype(np.uint8)).convert(mode).save(
        folder / name
    )
    return folder / name


def test_a_folder_s_images_are_read_as_its_benchmark_reads_them(tmp_path):
    """Folders of photographs: the middle square, bicubic."""
    path = picture(tmp_path, (37, 23))
    found = read([path], (3, 16, 16), "middle-bicubic")
    wanted = ImageOps.fit(Image.open(path), (16, 16), Image.Resampling.BICUBIC)
    assert torch.equal(found[0], torch.from_numpy(np.array(wanted).transpose(2, 0, 1)))
    assert torch.equal(found[0], torch.tensor(read_image(str(path), 16)).permute(2, 0, 1))


def test_images_of_a_data_set_are_resized_as_its_benchmark_resizes_them(tmp_path):
    from fedadapt.datasets.in_memory import resize

    path = picture(tmp_path, (24, 24))
    stored = torch.from_numpy(np.array(Image.open(path)).transpose(2, 0, 1))[None]
    found = read([path], (3, 9, 9), "middle-bilinear")
    assert torch.equal(found, resize(stored, (9, 9)))
    assert torch.equal(read([path], (3, 24, 24), "middle-bilinear"), stored)


def test_scenes_are_read_as_their_benchmark_reads_them(tmp_path):
    from fedadapt.datasets.task_incremental.mit_indoor import centre, read_picture

    path = picture(tmp_path, (50, 30))
    found = read([path], (3, 20, 20), "shorter-side-bilinear")
    wanted = centre(read_picture(path, 20), 20)
    assert torch.equal(found[0], torch.from_numpy(wanted.transpose(2, 0, 1)))


@pytest.mark.parametrize("reading", READINGS)
def test_any_shape_and_mode_becomes_the_network_s(tmp_path, reading):
    for mode in ("L", "RGB", "RGBA", "P", "LA"):
        path = picture(tmp_path, (31, 17), mode, f"{mode}.png")
        for channels in (1, 3):
            found = read([path, path], (channels, 8, 8), reading)
            assert (found.shape, found.dtype) == ((2, channels, 8, 8), torch.uint8)


@pytest.mark.parametrize("reading", READINGS)
def test_grey_stays_as_it_is(tmp_path, reading):
    """All 256 levels, as one channel and as three."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    one = read([tmp_path / "grey.png"], (1, 16, 16), reading)
    three = read([tmp_path / "grey.png"], (3, 16, 16), reading)
    assert torch.equal(one[0, 0], torch.from_numpy(levels))
    assert torch.equal(three, one.expand(1, 3, 16, 16))


def test_readings_that_cannot_be_are_one_line(tmp_path):
    with pytest.raises(InputError, match="reading: 'magic' is not known; known: middle-bicubic"):
        read([picture(tmp_path, (8, 8))], (1, 8, 8), "magic")
    with pytest.raises(InputError, match="images: none given"):
        read([], (1, 8, 8), "middle-bilinear")
