"""Identical images of a folder: counted, and never on two sides of a test."""

import numpy as np
import pytest
import torch
from PIL import Image

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark
from fedadapt.datasets.load import load_benchmark
from fedadapt.datasets.sources.digits import read_digits
from fedadapt.datasets.sources.duplicates import find_duplicates
from fedadapt.datasets.sources.image_store import make_store, store_of
from fedadapt.errors import InputError

PARTS = ("train", "adapt", "test")


def make_folder(root, copies=0, num=30):
    """Two domains x two classes of noise; the first images of a class have copies in all domains.

    Args:
        copies: How many images a class have a copy, in the other domain and once in their own.

    """
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        arrays = rng.integers(0, 256, (2, num, 6, 6, 3), dtype=np.uint8)
        arrays[1, :copies] = arrays[0, :copies]
        for domain, images in zip(("photo", "sketch"), arrays, strict=True):
            (root / domain / name).mkdir(parents=True)
            for number, image in enumerate([*images, *images[:copies]]):
                Image.fromarray(image).save(root / domain / name / f"{number:03}.png")
    return f"folder:{root}"


def contents(benchmark: Benchmark, part: str) -> list[set[bytes]]:
    """The bytes of the images of each client's set."""
    return [
        {image.numpy().tobytes() for image in getattr(benchmark.split(d), part).inputs}
        for d in range(benchmark.num_clients)
    ]


CASES = [
    {},
    {"partition": "iid"},
    {"partition": "by-domain+class-types:1"},
    {"split": "pooled"},
    {"partition": "dirichlet:0.5", "quantity": "lognormal:0.5"},
    {"examples": 12},
]


@pytest.mark.parametrize("settings", CASES)
def test_an_image_and_its_copies_lie_on_one_side_of_all_tests(tmp_path, settings):
    name = make_folder(tmp_path, copies=20)
    benchmark = load_benchmark(RunConfig(benchmark=name, clients=4, **settings))
    train, adapt, test = (set().union(*contents(benchmark, part)) for part in PARTS)
    assert not train & test
    assert not train & adapt
    assert not adapt & test
    assert benchmark.manifest.metadata["duplicate-images"] == 120  # 3 of each of 40 images


def test_all_copies_are_used_where_images_are_not_limited(tmp_path):
    name = make_folder(tmp_path, copies=20)
    benchmark = load_benchmark(RunConfig(benchmark=name, clients=4))
    rows = np.concatenate([part for d in range(4) for part in benchmark.rows(d)])
    assert sorted(rows) == list(range(200))
    limited = load_benchmark(RunConfig(benchmark=name, clients=4, examples=12))
    assert [sum(map(len, limited.rows(d))) for d in range(4)] == [12, 12, 10, 10]


def test_a_folder_without_copies_is_assigned_as_before_and_says_nothing_of_them(tmp_path):
    manifest = load_benchmark(RunConfig(benchmark=make_folder(tmp_path), clients=4)).manifest
    assert manifest.hash == "26c46d3f5fb5cc6d3b661b4a9bd34523c7721e129f0f73ad30dfc9d85653bf9c"
    assert not {"duplicate-images", "left-out-images"} & manifest.metadata.keys()


def test_the_same_image_under_another_label_is_left_out_and_counted():
    images = np.arange(6, dtype=np.uint8).repeat(16).reshape(6, 4, 4)
    images[[3, 5]] = images[0]
    found = find_duplicates(store_of("toy", images, ["a", "a", "b", "a", "b", "b"]))
    assert found.distinct.tolist() == [0, 1, 2, 4]
    assert {first: rows.tolist() for first, rows in found.copies.items()} == {0: [3]}
    assert found.metadata == {"duplicate-images": 1, "left-out-images": 1}


def test_a_test_image_that_is_also_a_training_image_is_left_out():
    images = np.arange(6, dtype=np.uint8).repeat(16).reshape(6, 4, 4)
    images[4] = images[0]
    labels = np.array([0, 1, 0, 1, 0, 1])
    found = find_duplicates(make_store("toy", (images[:3], labels[:3]), (images[3:], labels[3:])))
    assert found.distinct.tolist() == [0, 1, 2, 3, 5]
    assert not found.copies
    assert found.left_out == 1


def test_a_class_without_an_image_of_its_own_is_named():
    images = np.zeros((2, 4, 4), np.uint8)
    with pytest.raises(InputError, match="class 'b' has no image of its own"):
        find_duplicates(store_of("toy", images, ["a", "b"]))


def test_the_built_in_digits_hold_no_image_twice():
    store = read_digits()
    assert len(torch.unique(store.inputs.flatten(1), dim=0)) == len(store) == 1797
