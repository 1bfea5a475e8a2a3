"""Kinds that are cut before they are shared out: PFA's benchmarks."""

import numpy as np
import pytest
import torch
from PIL import Image

from fedadapt.config import RunConfig
from fedadapt.datasets.data_spec import DataSpec, check_data
from fedadapt.datasets.load import load_benchmark
from fedadapt.datasets.partitioning.pooled import pooled
from fedadapt.datasets.sources.image_store import Store
from fedadapt.errors import InputError

OFFICE_HOME = {"Art": 2427, "Clipart": 4365, "Product": 4439, "Real World": 4357}
TABLE_2 = {  # PFA: test images of clients 1-4 and of the fifth, training images likewise
    "Art": ((97, 98), (291, 291)),
    "Clipart": ((174, 177), (523, 527)),
    "Product": ((177, 180), (532, 535)),
    "Real World": ((174, 176), (522, 525)),
}


def blank_store(sizes: dict[str, int], classes: int = 65) -> Store:
    domain_of = np.repeat(np.arange(len(sizes)), list(sizes.values()))
    labels = np.random.default_rng(0).integers(0, classes, len(domain_of))
    names = tuple(map(str, range(classes)))
    pixels = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
    return Store(pixels, labels, len(labels), names, tuple(sizes), domain_of)


def cut(name: str, store: Store, partition: str = "by-domain", **settings: object):
    spec = DataSpec.of(RunConfig(benchmark=name, partition=partition, **settings))
    rows = np.arange(store.num_train)
    return pooled(spec, store, rows, np.arange(store.num_train, len(store)))


def cifar_like(tmp_path, train: int = 300, test: int = 100):
    """Ten classes, ``train`` and ``test`` images of each."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, num in (("train", 10 * train), ("test", 10 * test)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (num, 4, 4, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = (np.arange(num) % 10).astype(np.uint8)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    return tmp_path


def test_office_home_has_the_sizes_of_the_papers_table_2():
    clients = cut("pfa-office-home", blank_store(OFFICE_HOME), clients=20)
    sizes = [(len(d.test), len(d.train)) for d in clients]
    wanted = [
        pair
        for (test, test5), (train, train5) in TABLE_2.values()
        for pair in [(test, train)] * 4 + [(test5, train5)]
    ]
    assert sizes == wanted
    unused = [sum(len(d.adapt) for d in clients[first : first + 5]) for first in (0, 5, 10, 15)]
    assert unused == [486, 873, 888, 872]


def test_every_image_of_a_domain_is_used_once_and_stays_in_its_domain():
    store = blank_store(OFFICE_HOME)
    clients = cut("pfa-office-home", store, clients=20)
    everything = np.concatenate([np.concatenate(d) for d in clients])
    assert sorted(everything) == list(range(len(store.labels)))
    for number, client in enumerate(clients):
        assert set(store.domain_of[np.concatenate(client)]) == {number // 5}


def test_parts_have_the_classes_in_the_proportions_of_the_domain():
    store = blank_store(OFFICE_HOME, classes=5)
    for client in cut("pfa-office-home", store, clients=20):
        for part in client:
            shares = np.bincount(store.labels[part], minlength=5) / len(part)
            assert abs(shares - 0.2).max() < 0.05


def test_the_seed_decides_who_gets_which_images():
    store = blank_store(OFFICE_HOME)
    one, again, other = (cut("pfa-office-home", store, clients=20, seed=s) for s in (1, 1, 2))
    assert all((a.train == b.train).all() for a, b in zip(one, again, strict=True))
    assert any((a.train != b.train).any() for a, b in zip(one, other, strict=True))


def test_pfa_cifar10_gives_each_client_fifty_images_of_each_of_two_classes(tmp_path):
    benchmark = load_benchmark(
        RunConfig(benchmark="pfa-cifar10", clients=10, data_root=str(cifar_like(tmp_path)))
    )
    seen = []
    for client in range(10):
        split = benchmark.split(client)
        kind = client // 2
        for part, each in ((split.train, 50), (split.adapt, 25), (split.test, 50)):
            assert part.labels.bincount(minlength=10).tolist() == [
                each if c // 2 == kind else 0 for c in range(10)
            ]
        seen.append(np.concatenate(benchmark.rows(client)))
        assert max(*benchmark.rows(client)[0], *benchmark.rows(client)[1]) < 3000
        assert min(benchmark.rows(client)[2]) >= 3000
    everything = np.concatenate(seen)
    assert len(set(everything)) == len(everything)


def test_more_clients_than_images_for_a_hundred_each_get_fewer(tmp_path):
    root = str(cifar_like(tmp_path))
    benchmark = load_benchmark(RunConfig(benchmark="pfa-cifar10", clients=100, data_root=root))
    sizes = {tuple(map(len, benchmark.split(d))) for d in range(100)}
    assert sizes == {(20, 10, 10)}
    with pytest.raises(InputError, match="clients: 9000 is more than pfa-cifar10 can serve"):
        load_benchmark(RunConfig(benchmark="pfa-cifar10", clients=9000, data_root=root))


def test_any_data_set_with_a_test_part_can_be_cut_like_it(tmp_path):
    root = str(cifar_like(tmp_path))
    config = RunConfig(
        benchmark="cifar10", split="official", clients=5, examples=50, data_root=root
    )
    benchmark = load_benchmark(config)
    assert tuple(map(len, benchmark.split(0))) == (30, 10, 10)
    assert min(benchmark.rows(0)[2]) >= 3000
    assert benchmark.manifest.metadata["split"] == "official"


def test_a_folder_below_the_data_root_is_the_same_as_that_folder(tmp_path):
    for domain in ("art", "photo"):
        for name in ("cat", "dog"):
            place = tmp_path / "pacs" / domain / name
            place.mkdir(parents=True)
            for number in range(15):
                Image.new("RGB", (8, 8), (number, ord(domain[0]), ord(name[0]))).save(
                    place / f"{number}.png"
                )
    by_name = load_benchmark(RunConfig(benchmark="pfa-pacs", clients=4, data_root=str(tmp_path)))
    by_path = load_benchmark(
        RunConfig(benchmark=f"folder:{tmp_path / 'pacs'}", split="pooled", clients=4)
    )
    assert by_name.kinds == by_path.kinds == ("art", "art", "photo", "photo")
    for client in range(4):
        pairs = zip(by_name.split(client), by_path.split(client), strict=True)
        assert all(torch.equal(a.inputs, b.inputs) for a, b in pairs)
    assert tuple(map(len, by_name.split(0))) == (9, 3, 3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"benchmark": "digits-classes", "split": "pooled"}, "split: pooled; digits-classes"),
        ({"benchmark": "pfa-cifar10", "partition": "dirichlet:0.3"}, "goes with partition iid"),
        ({"benchmark": "pfa-cifar10", "quantity": "lognormal:1"}, "and quantity even"),
        ({"benchmark": "pfa-office-home"}, "put its folder OfficeHomeDataset_10072016"),
    ],
)
def test_what_cannot_be_pooled_is_refused_in_one_line(tmp_path, settings, said):
    with pytest.raises(InputError, match=said) as caught:
        check_data(RunConfig(data_root=str(cifar_like(tmp_path)), **settings))
    assert "\n" not in str(caught.value)
