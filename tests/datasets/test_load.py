"""``load_benchmark`` as a whole: determinism, scaling, combinations of skew, real data."""

import json

import numpy as np
import pytest
import torch

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark
from fedadapt.datasets.in_memory import resize
from fedadapt.datasets.load import load_benchmark


@pytest.fixture
def toy_root(tmp_path):
    """A data root with a small CIFAR-10: 600 images of which the class is the brightness."""
    rng = np.random.default_rng(0)

    def images(num):
        labels = np.arange(num) % 10
        noise = rng.integers(0, 20, (num, 16, 16, 3))
        return (noise + 22 * labels[:, None, None, None]).astype(np.uint8), labels

    (x_train, y_train), (x_test, y_test) = images(600), images(215)
    np.savez(
        tmp_path / "cifar10.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test
    )
    return str(tmp_path)


def load(root: str, **settings) -> Benchmark:
    return load_benchmark(
        RunConfig(**{"benchmark": "cifar10", "data_root": root, "clients": 10, **settings})
    )


def everything(benchmark: Benchmark) -> list[torch.Tensor]:
    return [
        tensor
        for client in range(benchmark.num_clients)
        for part in benchmark.split(client)
        for tensor in (part.inputs, part.labels)
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"partition": "iid"},
        {"partition": "dirichlet:0.3", "shift": "corruptions:3"},
        {"partition": "class-types:2", "shift": "rotation", "quantity": "linear"},
        {"partition": "pathological:2", "imbalance": "long-tail:0.5", "shift": "domains"},
        {"partition": "shards:2", "quantity": "lognormal:0.5", "unseen": 0.3, "image_size": 20},
    ],
)
def test_equal_settings_give_equal_tensors_and_another_seed_gives_others(toy_root, settings):
    first, again = load(toy_root, **settings), load(toy_root, **settings)
    other = load(toy_root, seed=2, **settings)
    assert first.manifest == again.manifest
    assert first.manifest.hash != other.manifest.hash
    assert all(torch.equal(a, b) for a, b in zip(everything(first), everything(again), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(everything(first), everything(first), strict=True))
    rows = [np.concatenate([p for d in range(10) for p in b.rows(d)]) for b in (first, other)]
    assert not np.array_equal(*rows)
    assert len(np.unique(rows[0])) == len(rows[0])
    assert rows[0].max() < 600  # the official test part is nobody's


@pytest.mark.parametrize(
    "change",
    [
        {"clients": 11},
        {"partition": "class-types:5"},
        {"shift": "rotation"},
        {"quantity": "linear"},
        {"imbalance": "long-tail:0.5"},
        {"unseen": 0.2},
        {"adapt_share": 0.3},
        {"test_share": 0.3},
        {"examples": 30},
        {"image_size": 8},
        {"seed": 7},
    ],
)
def test_everything_that_moves_an_image_changes_the_hash(toy_root, change):
    assert load(toy_root).manifest.hash != load(toy_root, **change).manifest.hash


@pytest.mark.parametrize("change", [{"normalization": "unit"}, {"rounds": 3}, {"model": "cnn"}])
def test_nothing_else_changes_the_hash(toy_root, change):
    assert load(toy_root).manifest.hash == load(toy_root, **change).manifest.hash


def test_the_manifest_can_be_written_as_json_and_holds_no_path(toy_root):
    manifest = load(toy_root).manifest
    text = json.dumps(manifest.metadata)
    assert toy_root not in text
    assert json.loads(text) == manifest.metadata
    assert len(manifest.hash) == 64


def test_a_client_splits_every_class_as_its_shares_say(toy_root):
    benchmark = load(toy_root)
    for client in range(10):
        train, adapt, test = (
            torch.bincount(p.labels, minlength=10) for p in benchmark.split(client)
        )
        pair = [2 * (client // 2), 2 * (client // 2) + 1]
        assert (train + adapt + test)[pair].tolist() == [30, 30]
        assert test[pair].tolist() == adapt[pair].tolist() == [6, 6]


def test_all_three_skews_combine(toy_root):
    benchmark = load(
        toy_root,
        partition="class-types:2",
        quantity="linear",
        shift="rotation",
        imbalance="long-tail:0.5",
    )
    sizes = [sum(map(len, benchmark.rows(d))) for d in range(10)]
    assert max(sizes) > 3 * min(sizes)
    assert benchmark.kinds[:3] == ("0+1/upright", "0+1/rotated90", "2+3/rotated180")
    for client in range(10):
        pair = {2 * (client // 2), 2 * (client // 2) + 1}
        assert set(benchmark.split(client).train.labels.tolist()) == pair


def test_the_global_test_is_balanced_and_has_no_shift(toy_root):
    benchmark = load(toy_root, shift="corruption:contrast:5")
    everybody = benchmark.global_test
    assert everybody is not None
    assert torch.bincount(everybody.labels).tolist() == [21] * 10
    assert ((everybody.inputs.float().mean((1, 2, 3)) / 22 - everybody.labels).abs() < 0.6).all()


def test_examples_caps_each_client(toy_root):
    benchmark = load(toy_root, examples=30)
    assert [sum(map(len, benchmark.rows(d))) for d in range(10)] == [30] * 10


def test_data_scaling_gives_the_training_images_mean_zero_and_deviation_one(toy_root):
    benchmark = load(toy_root, unseen=0.2)
    seen = torch.cat([benchmark.split(d).train.inputs for d in benchmark.seen])
    scaled = benchmark.scaling(seen).double()
    assert scaled.mean((0, 2, 3)) == pytest.approx(torch.zeros(3), abs=1e-4)
    assert scaled.std((0, 2, 3), correction=0) == pytest.approx(torch.ones(3), abs=1e-4)


def test_other_scalings_are_what_they_are_called(toy_root):
    whole = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)

    def ends(**settings):
        return load(toy_root, **settings).scaling(whole)[:, :, 0, 0]

    assert torch.allclose(ends(normalization="unit"), torch.tensor([[0.0] * 3, [1.0] * 3]))
    assert torch.allclose(ends(normalization="symmetric"), torch.tensor([[-1.0] * 3, [1.0] * 3]))
    assert torch.allclose(
        ends(weights="imagenet"),
        (torch.tensor([[0.0], [1.0]]) - torch.tensor([0.485, 0.456, 0.406]))
        / torch.tensor([0.229, 0.224, 0.225]),
    )
    grey = load_benchmark(RunConfig(normalization="imagenet")).scaling
    assert grey.mean == pytest.approx((0.449,))


def test_images_are_resized_before_they_are_shifted(toy_root):
    plain, small = load(toy_root), load(toy_root, image_size=8)
    turned = load(toy_root, image_size=8, shift="rotation")
    assert small.image_shape == (3, 8, 8)
    expected = resize(plain.split(1).test.inputs, (8, 8))
    assert torch.equal(small.split(1).test.inputs, expected)
    assert torch.equal(turned.split(1).test.inputs, expected.rot90(1, (2, 3)))
    assert small.global_test is not None
    assert small.global_test.inputs.shape[1:] == (3, 8, 8)


def test_resizing_keeps_a_flat_image_and_halves_a_pattern_to_its_mean():
    flat = torch.full((2, 3, 16, 16), 77, dtype=torch.uint8)
    assert torch.equal(resize(flat, (40, 40)), torch.full((2, 3, 40, 40), 77, dtype=torch.uint8))
    stripes = torch.tensor([0, 200], dtype=torch.uint8).repeat(8).expand(1, 1, 16, 16)
    assert resize(stripes, (8, 8))[0, 0, 4, 4] == 100


def test_real_mnist_is_divided_among_a_hundred_clients(data_root):
    if not (data_root / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip("no MNIST under FEDADAPT_DATA")
    benchmark = load_benchmark(RunConfig(benchmark="mnist", data_root=str(data_root)))
    rows = np.concatenate([part for d in range(100) for part in benchmark.rows(d)])
    assert sorted(rows) == list(range(60_000))
    assert benchmark.scaling.mean == pytest.approx((0.1307,), abs=2e-3)
    assert benchmark.scaling.std == pytest.approx((0.3081,), abs=2e-3)
    assert benchmark.global_test is not None
    assert len(benchmark.global_test) == 8920  # ten times the 892 fives


def test_real_pacs_is_divided_by_domain(data_root, tmp_path):
    domains = ("art_painting", "cartoon", "photo", "sketch")
    if not (data_root / "pacs" / "photo" / "dog").is_dir():
        pytest.skip("no PACS under FEDADAPT_DATA")
    sizes = []
    for domain in domains:  # two of the seven classes: all of them take seconds to decode
        (tmp_path / domain).mkdir()
        for name in ("guitar", "house"):
            (tmp_path / domain / name).symlink_to(data_root / "pacs" / domain / name)
        sizes.append(sum(len(list((tmp_path / domain / c).iterdir())) for c in ("guitar", "house")))
    benchmark = load_benchmark(RunConfig(benchmark=f"folder:{tmp_path}", clients=8))
    assert benchmark.image_shape == (3, 96, 96)
    assert benchmark.kinds[::2] == domains
    held = [sum(map(len, benchmark.rows(d))) for d in range(8)]
    assert [held[d] + held[d + 1] for d in range(0, 8, 2)] == sizes
