"""The words of the grammar, the catalog, and what both refuse without loading torch."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedadapt.config import RunConfig
from fedadapt.datasets import catalog
from fedadapt.datasets.partitioning.spec import (
    CORRUPTIONS,
    Partition,
    Rule,
    Shift,
    parse_imbalance,
    parse_partition,
    parse_quantity,
    parse_shift,
)
from fedadapt.errors import InputError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("iid", Partition(False, Rule("iid"))),
        ("dirichlet:0.3", Partition(False, Rule("dirichlet", 0.3))),
        ("pathological:2", Partition(False, Rule("pathological", 2))),
        ("shards:3", Partition(False, Rule("shards", 3))),
        ("class-types:2", Partition(False, Rule("class-types", 2))),
        ("by-domain", Partition(True, Rule("iid"))),
        ("by-domain+dirichlet:1", Partition(True, Rule("dirichlet", 1))),
    ],
)
def test_a_partition_reads_as_documented(text, meaning):
    assert parse_partition(text) == meaning


def test_a_shift_reads_as_documented():
    assert parse_shift("") == parse_shift("none") == Shift("none")
    assert parse_shift("corruptions:3") == Shift("corruptions", "", 3)
    assert parse_shift("corruption:jpeg:5") == Shift("corruption", "jpeg", 5)
    assert parse_shift("rotation") == Shift("rotation")
    assert parse_quantity("lognormal:0.5") == Rule("lognormal", 0.5)
    assert parse_quantity("") == Rule("even")
    assert parse_imbalance("long-tail:0.01") == Rule("long-tail", 0.01)


@pytest.mark.parametrize(
    ("parse", "text", "said"),
    [
        (parse_partition, "dirichlt:0.3", "did you mean 'dirichlet'"),
        (parse_partition, "dirichlet", "lacks its number; write dirichlet:ALPHA"),
        (parse_partition, "dirichlet:x", "'x' is not a number"),
        (parse_partition, "dirichlet:0", "0 must be a number > 0"),
        (parse_partition, "dirichlet:nan", "nan must be a number > 0"),
        (parse_partition, "shards:1.5", "1.5 must be a whole number >= 1"),
        (parse_partition, "iid:3", "iid takes no number"),
        (parse_partition, "by-domain+by-domain", "unknown 'by-domain'"),
        (parse_quantity, "lognormal:-1", "-1 must be a number >= 0 and <= 10"),
        (parse_quantity, "cubic", "known: even, linear"),
        (parse_imbalance, "long-tail:2", "2 must be a number > 0 and <= 1"),
        (parse_shift, "corruptions:6", "SEVERITY is 1 to 5"),
        (parse_shift, "corruptions", "SEVERITY is 1 to 5"),
        (parse_shift, "corruption:jpg:3", "did you mean 'jpeg'"),
        (parse_shift, "rotation:2", "rotation takes no number"),
        (parse_shift, "rotate", "did you mean 'rotation'"),
    ],
)
def test_a_bad_word_is_refused_in_one_line_that_helps(parse, text, said):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"benchmark": "minst"}, "did you mean 'mnist'"),
        ({"partition": "class-types:11"}, "more than the 10 classes"),
        ({"partition": "pathological:11"}, "more than the 10 classes"),
        ({"partition": "by-domain"}, "which digits-classes does not have"),
        ({"examples": 2}, "examples: 2 is too few"),
        ({"image_size": 2}, "image-size: 2 is out of range"),
        ({"shift": "corruptions:9"}, "shift: 'corruptions:9'"),
        ({"imbalance": "tail"}, "imbalance: unknown 'tail'"),
        ({"benchmark": "folder:"}, "names no folder"),
        ({"benchmark": "folder:/does/not/exist"}, "no such folder"),
        ({"benchmark": "mnist", "data_root": "/does/not/exist"}, "/does/not/exist is no folder"),
    ],
)
def test_the_catalog_refuses_what_cannot_work(settings, said):
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        catalog.check(RunConfig(**settings))
    assert said in str(caught.value)


def test_a_real_benchmark_without_a_data_root_names_the_setting(monkeypatch):
    monkeypatch.delenv("FEDADAPT_DATA", raising=False)
    with pytest.raises(InputError, match="set --data-root or FEDADAPT_DATA"):
        catalog.check(RunConfig(benchmark="mnist"))


def test_too_many_clients_are_refused_with_the_number_that_would_do(tmp_path):
    with pytest.raises(InputError, match=r"clients: 20001 is more than mnist.*at most 20000"):
        catalog.check(RunConfig(benchmark="mnist", data_root=str(tmp_path), clients=20_001))
    catalog.check(RunConfig(benchmark="mnist", data_root=str(tmp_path), clients=20_000))


def test_missing_extras_are_named_with_the_command_that_installs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "find_spec", lambda module: None)
    with pytest.raises(
        InputError, match=r'flwr_datasets; run pip install "fedadapt\[simulation\]"'
    ):
        catalog.check(RunConfig(benchmark="mnist", data_root=str(tmp_path)))
    with pytest.raises(InputError, match="spatter corruption needs cv2"):
        catalog.check(RunConfig(shift="corruptions:3"))
    catalog.check(RunConfig())  # the built-in benchmarks need neither
    catalog.check(RunConfig(partition="dirichlet:0.3", shift="corruption:jpeg:3"))
    catalog.check(RunConfig(benchmark="cifar10", data_root=str(tmp_path)))  # class types


def test_a_folder_is_checked_for_domains_classes_and_images(tmp_path):
    touch(tmp_path, *(f"{d}/{c}/{n}.jpg" for d in "ab" for c in ("cat", "dog") for n in range(5)))
    name = f"folder:{tmp_path}"
    catalog.check(RunConfig(benchmark=name, clients=4))
    assert catalog.find(name).classes == 2
    assert catalog.find(name).domains == 2
    with pytest.raises(InputError, match="1 is fewer than the 2 domains"):
        catalog.check(RunConfig(benchmark=name, clients=1))
    with pytest.raises(InputError, match=r"7 is more than .* can serve; at most 6"):
        catalog.check(RunConfig(benchmark=name, clients=7))
    with pytest.raises(InputError, match="pathological:3 asks for more than the 2 classes"):
        catalog.check(RunConfig(benchmark=name, clients=4, partition="pathological:3"))
    (tmp_path / "b" / "emu").mkdir()
    with pytest.raises(InputError, match="class 'emu' has no images"):
        catalog.check(RunConfig(benchmark=name, clients=4))


def test_an_empty_folder_and_a_single_class_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        catalog.find(f"folder:{tmp_path}")
    touch(tmp_path, "a/cat/1.jpg")
    with pytest.raises(InputError, match="one class, 'cat'"):
        catalog.find(f"folder:{tmp_path}")


def test_the_listing_tells_what_is_there_and_where_the_rest_must_go(tmp_path, monkeypatch):
    monkeypatch.delenv("FEDADAPT_DATA", raising=False)
    entries = {entry.name: entry for entry in catalog.CATALOG}
    touch(tmp_path, "usps.npz", *entries["mnist"].files)
    rows = {row.name: row for row in catalog.rows(str(tmp_path))}
    assert list(rows) == [*entries, "folder:/path"]
    assert rows["digits-classes"].found
    assert rows["mnist"].found
    assert rows["usps"].where == str(tmp_path / "usps.npz")
    assert not rows["cifar10"].found
    assert "cifar-10-batches-py/ or cifar10.npz" in rows["cifar10"].where
    assert not {row.name: row for row in catalog.rows()}["mnist"].found


def test_a_bad_benchmark_is_refused_fast_and_without_torch_or_numpy():
    program = (
        "import sys, time; start = time.perf_counter()\n"
        "from fedadapt.config import RunConfig\n"
        "from fedadapt.datasets import catalog\n"
        "catalog.check(RunConfig()); catalog.rows()\n"
        "try: catalog.check(RunConfig(benchmark='minst'))\n"
        "except Exception as error: print(error)\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'PIL', 'scipy', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "did you mean 'mnist'" in done.stdout
    assert time.perf_counter() - start < 5  # a loaded machine; alone it takes 0.1 s


def test_there_are_ten_corruptions_in_the_order_of_the_paper():
    assert len(CORRUPTIONS) == len(set(CORRUPTIONS)) == 10
    assert CORRUPTIONS[0] == "spatter"
    assert CORRUPTIONS[-1] == "impulse-noise"
