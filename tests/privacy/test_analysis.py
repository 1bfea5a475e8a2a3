"""The attack as a whole, on a small network and images with structure in both directions."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedadapt.datasets.benchmark import Scaling
from fedadapt.models.network import Network
from fedadapt.privacy import analysis as module
from fedadapt.privacy.analysis import Analysis, Inversion, analyse, write_json
from fedadapt.privacy.picture import inversions, shown_images, write_picture
from fedadapt.privacy.settings import ORDERED, Attack
from fedadapt.privacy.victim import Victim

ATTACK = Attack(images=4, layers=(0, 1), steps=100)


def made_victim(channels: int = 1) -> Victim:
    """Bright rectangles on a dark ground, and a network that sees them as they are, then coarsely.

    Of a sum it can only be found what is even along it, which is nearer to an image than its mean.
    """
    images = torch.full((4, channels, 12, 12), 40, dtype=torch.uint8)
    for number, (top, left) in enumerate([(1, 1), (5, 2), (2, 6), (7, 7)]):
        images[number, :, top : top + 4, left : left + 3] = 230
    see = nn.Conv2d(channels, channels, 1, bias=False)
    nn.init.dirac_(see.weight)
    body = nn.Sequential(see, nn.ReLU(), nn.AvgPool2d(3), nn.ReLU(), nn.Flatten())
    scaling = Scaling((0.0,) * channels, (1.0,) * channels)
    model = Network(body, 16 * channels, 3)
    return Victim(model, scaling, images, (0, 0, 1, 1), ("a", "b", "a", "b"))


@pytest.fixture(scope="module")
def done() -> Analysis:
    return analyse(made_victim(), ATTACK)


def table(**means: float) -> Analysis:
    """One image whose likeness at layer 0 is given by property."""
    rows = [Inversion(0, 0, name, value, value / 10, 0.0) for name, value in means.items()]
    return Analysis({0: None}, np.zeros((1, 1, 2, 2)), {}, rows, {})


def test_the_order_of_the_paper_comes_out(done):
    assert done.ordered("psnr")
    assert done.ordered("ssim")
    assert done.ordered_images("psnr") == 4
    assert done.spread(0, "fm", "psnr").mean > 30
    assert done.falling("fm", "psnr")


def test_every_image_layer_and_property_has_its_row(done):
    keys = {(row.image, row.layer, row.property) for row in done.rows}
    assert keys == {(i, n, p) for i in range(4) for n in (0, 1) for p in ORDERED}
    assert len(done.rows) == len(keys)
    assert all(images.shape == (4, 1, 12, 12) for images in done.reconstructions.values())
    for images in done.reconstructions.values():
        assert images.min() >= 0
        assert images.max() <= 1


def test_a_reconstructed_image_has_the_property_that_was_attacked(done):
    assert all(row.misfit < 0.01 for row in done.rows if row.layer == 0)


@pytest.mark.parametrize(
    ("h_sp", "v_sp", "w_sp", "holds"),
    [(14, 13, 12, True), (13, 14, 12, True), (14, 11, 12, False), (31, 13, 12, False),
     (12, 13, 12, False)],
)  # fmt: skip
def test_the_order_is_strict_and_of_both_sums(h_sp, v_sp, w_sp, holds):
    found = table(fm=30, h_sp=h_sp, v_sp=v_sp, w_sp=w_sp)
    assert found.ordered("psnr") is holds
    assert found.ordered("ssim") is holds
    assert found.ordered_images("psnr") == holds


def test_the_order_is_not_judged_without_all_four():
    assert table(fm=30, h_sp=13, v_sp=12).ordered("psnr") is None


def test_the_same_seed_gives_the_same_and_the_batch_does_not_show(monkeypatch):
    attack = replace(ATTACK, layers=(0,), properties=("v_sp",), steps=20)
    once, again = analyse(made_victim(), attack), analyse(made_victim(), attack)
    assert once.rows == again.rows
    monkeypatch.setattr(module, "AT_ONCE", 3)
    for together, apart in zip(once.rows, analyse(made_victim(), attack).rows, strict=True):
        assert together[:3] == apart[:3]
        assert together[3:] == pytest.approx(apart[3:], rel=1e-3)


def test_nothing_can_be_reconstructed_from_the_true_sparsity():
    """The start has no gradient to follow but that of its own smoothness."""
    attack = replace(ATTACK, layers=(0,), properties=("fm", "sparsity"), steps=60)
    found = analyse(made_victim(), attack)
    grey = found.blind["psnr"].mean
    assert found.spread(0, "sparsity", "psnr").mean == pytest.approx(grey, abs=0.5)
    assert found.spread(0, "fm", "psnr").mean > grey + 5


def test_the_file_says_it_all(done, tmp_path):
    path = write_json(tmp_path / "x.json", done, made_victim(), ATTACK, {"model": "made up"})
    content = json.loads(path.read_text("utf-8"))
    assert len(content["inversions"]) == len(done.rows)
    assert content["ordering"]["psnr"] == {"holds": True, "images": done.ordered_images("psnr")}
    assert content["layers"]["1"] == {"path": "body.3", "channels": 1, "positions": 16}
    assert [image["client"] for image in content["images"]] == [0, 0, 1, 1]
    assert content["attack"]["steps"] == 100


@pytest.mark.parametrize("channels", [1, 3])
def test_the_picture_has_every_tile(tmp_path, channels):
    attack = replace(ATTACK, steps=1, properties=("fm", "w_sp"))
    found = analyse(made_victim(channels), attack)
    figure = inversions(found)
    assert len(figure.axes) == 3 * (1 + 2 * 2)
    assert shown_images(found) == [0, 1, 2]
    for axes in figure.axes:
        box = axes.get_position()
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1
    assert write_picture(tmp_path, found).read_bytes().startswith(b"\x89PNG")
