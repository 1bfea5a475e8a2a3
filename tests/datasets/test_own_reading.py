"""A data set of a user's own: by ``module:factory`` and by an entry point."""

import re
from pathlib import Path

import numpy as np
import pytest
import tiny

from fedadapt.config import RunConfig
from fedadapt.datasets.data_spec import check_data
from fedadapt.datasets.listing import benchmark_rows
from fedadapt.datasets.load import load_benchmark
from fedadapt.datasets.registry import find_benchmark
from fedadapt.errors import InputError

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")

FACTORIES = """
import numpy as np
from fedadapt.config import RunConfig
from fedadapt.datasets.load import load_benchmark
from fedadapt.datasets.sources.image_store import make_store

def noise(num=60, seed=3):
    return np.random.default_rng(seed).integers(0, 256, (num, 6, 6), dtype=np.uint8)

def plain():
    return noise(), np.arange(60) % 3

def seeded(seed):
    return noise(seed=seed), np.arange(60) % 3

def words():
    return noise(), ["no", "yes"] * 30, ["day"] * 30 + ["night"] * 30

def rooted(root, clients, **others):
    assert not {"entry", "progress"} & others.keys()
    return noise(), np.full(60, 0) + (np.arange(60) % 2) * (root != "" and clients > 0)

def tested():
    labels = np.arange(60) % 3
    return make_store("tested", (noise(), labels), (noise(30, 4), labels[:30]), ("a", "b", "c"))

def ready(clients):
    return load_benchmark(RunConfig(benchmark="digits-domains", clients=clients))

def stubborn():
    return ready(7)

def broken():
    raise KeyError("no such table")

def wrong():
    return noise()

def complex_numbers():
    return noise() * 1j, np.arange(60) % 3

def infinite():
    return np.full((60, 6, 6), np.inf), np.arange(60) % 3

def short():
    return noise(), np.arange(7)

def far():
    return noise(), np.arange(60) % 3, np.arange(60) % 2 + 1

number = 3
"""


@pytest.fixture(autouse=True)
def own_data(tmp_path, monkeypatch):
    """Two modules on the path, one of which an installed package registers."""
    (tmp_path / "my_test_data.py").write_text(FACTORIES)
    folder = tmp_path / "my_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[fedadapt.datasets]\nmeadow = my_test_data:words\n")
    monkeypatch.syspath_prepend(tmp_path)


def load(function: str, **settings):
    given = {"clients": 5, "partition": "class-types:1", **settings}
    return load_benchmark(RunConfig(benchmark=f"my_test_data:{function}", **given))


def test_images_and_labels_are_divided_by_our_partitions():
    benchmark = load("plain")
    assert benchmark.classes == ("0", "1", "2")
    assert benchmark.kinds == ("0", "0", "1", "1", "2")
    assert benchmark.image_shape == (1, 6, 6)
    assert benchmark.global_test is None
    rows = np.concatenate([part for d in range(5) for part in benchmark.rows(d)])
    assert sorted(rows) == list(range(60))
    assert benchmark.manifest == load("plain").manifest
    contents = [load("seeded", seed=seed).manifest.metadata["content"] for seed in (1, 2)]
    assert contents[0] != contents[1]


def test_words_become_classes_and_domains():
    benchmark = load("words", partition="by-domain", clients=4)
    assert benchmark.classes == ("no", "yes")
    assert benchmark.kinds == ("day", "day", "night", "night")
    for client in range(4):
        held = np.concatenate(benchmark.rows(client))
        assert set(held // 30) == {client // 2}
    with pytest.raises(InputError, match="clients: 1 is fewer than the 2 domains"):
        load("words", partition="by-domain", clients=1)


def test_a_factory_gets_what_it_has_parameters_for(tmp_path):
    assert load("rooted", data_root=str(tmp_path), partition="iid").classes == ("0", "1")


def test_a_store_may_have_a_test_part():
    benchmark = load("tested", split="official")
    assert benchmark.classes == ("a", "b", "c")
    assert benchmark.global_test is not None
    assert min(benchmark.rows(0).test) >= 60


def test_a_finished_benchmark_is_taken_as_it_is():
    benchmark = load("ready", partition="")
    assert benchmark.num_clients == 5
    assert benchmark.kinds[1] == "inverted"
    with pytest.raises(InputError, match=r"^partition: my_test_data:ready does not use it"):
        load("ready")
    with pytest.raises(InputError, match=r"^clients: 5; my_test_data:stubborn made 7"):
        load("stubborn", partition="")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("broken", r"failed with no arguments \(KeyError: 'no such table'\); it takes root, seed"),
        ("wrong", r"returned a ndarray; it must return \(images, labels\)"),
        ("complex_numbers", "x_train is complex128"),
        ("infinite", "x_train holds values that are not finite numbers"),
        ("short", "one whole number for each of the 60 images"),
        ("far", "domains must be numbered from 0"),
        ("number", "is a int; it must be a function"),
        ("absent", "cannot import my_test_data:absent"),
    ],
)
def test_what_is_wrong_with_a_factory_is_one_line(function, said):
    with pytest.raises(InputError, match=said) as caught:
        load(function)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("benchmark: ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_here:make", "there is no module 'no_such_module_here'"),
        ("a:b:c", "is not of the form clients:/path, npz:/path, hf:NAME, folder:/path or module"),
        ("medow", "did you mean 'meadow'"),
    ],
)
def test_a_name_behind_which_there_is_nothing_is_refused_before_anything_is_opened(name, said):
    with pytest.raises(InputError, match=said):
        check_data(RunConfig(benchmark=name))


def test_a_package_adds_a_benchmark_by_an_entry_point():
    [row] = [row for row in benchmark_rows() if row.name == "meadow"]
    assert row.found
    assert "my_test_data:words" in row.description
    assert find_benchmark("meadow").reader == "my_test_data:words"
    benchmark = load_benchmark(RunConfig(benchmark="meadow", clients=2, partition="class-types:1"))
    assert benchmark.kinds == ("no", "yes")
    assert benchmark.manifest.metadata["benchmark"] == "meadow"


def test_what_a_data_set_does_not_have_is_refused_once_it_is_opened():
    check_data(RunConfig(benchmark="meadow", clients=2, partition="class-types:9"))
    for partition, said in (("class-types:9", "more than the 2 classes"), ("iid", "")):
        if said:
            with pytest.raises(InputError, match=said):
                load("words", partition=partition)
    with pytest.raises(InputError, match="by-domain needs images in domains"):
        load("plain", partition="by-domain")


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    [code] = re.findall(r"^```python\n(# mydata\.py\n.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "mydata.py").write_text(code, "utf-8")
    tiny.without_pictures(monkeypatch)
    settings = {"benchmark": "mydata:rings", "partition": "by-domain", "clients": 4}
    benchmark = load_benchmark(RunConfig(**settings))
    assert benchmark.kinds == ("bright", "bright", "dark", "dark")
    assert [len(part) for part in benchmark.split(0)] == [90, 30, 30]
    tiny.run(tmp_path / "run", rounds=2, **settings)
    assert tiny.base(tmp_path / "run")
