"""The words of the grammar, the catalog, and what both refuse without loading torch."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fedadapt.config import RunConfig
from fedadapt.datasets.data_spec import check_data
from fedadapt.datasets.entries import ENTRIES
from fedadapt.datasets.feature_shift.spec import (
    CORRUPTIONS,
    SHIFTS,
    Corruptions,
    NoShift,
    OneCorruption,
    Rotation,
    parse_shift,
)
from fedadapt.datasets.listing import benchmark_rows
from fedadapt.datasets.partitioning.imbalance import IMBALANCES, Balanced, LongTail, parse_imbalance
from fedadapt.datasets.partitioning.label_skew import (
    ClassTypes,
    Dirichlet,
    Iid,
    Pathological,
    Shards,
)
from fedadapt.datasets.partitioning.size_rules import QUANTITIES, Even, Lognormal, parse_quantity
from fedadapt.datasets.partitioning.spec import PARTITIONS, Partition, parse_partition
from fedadapt.datasets.registry import find_benchmark
from fedadapt.datasets.rules import read_rule
from fedadapt.datasets.task_incremental.task_spec import USERS
from fedadapt.errors import InputError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("iid", Partition(False, Iid())),
        ("dirichlet:0.3", Partition(False, Dirichlet(0.3))),
        ("pathological:2", Partition(False, Pathological(2))),
        ("shards:3", Partition(False, Shards(3))),
        ("class-types:2", Partition(False, ClassTypes(2))),
        ("by-domain", Partition(True, Iid())),
        ("by-domain+dirichlet:1", Partition(True, Dirichlet(1))),
    ],
)
def test_a_partition_reads_as_documented(text, meaning):
    assert parse_partition(text) == meaning


def test_a_shift_reads_as_documented():
    assert parse_shift("") == parse_shift("none") == NoShift()
    assert parse_shift("corruptions:3") == Corruptions(3)
    assert parse_shift("corruption:jpeg:5") == OneCorruption("jpeg", 5)
    assert parse_shift("rotation") == Rotation()
    assert parse_quantity("lognormal:0.5") == Lognormal(0.5)
    assert parse_quantity("") == Even()
    assert parse_imbalance("long-tail:0.01") == LongTail(0.01)
    assert parse_imbalance("") == Balanced()


RULES = [
    pytest.param(key, rules, name, id=f"{key} {name}")
    for key, rules in (
        ("partition", PARTITIONS),
        ("quantity", QUANTITIES),
        ("imbalance", IMBALANCES),
        ("shift", SHIFTS),
        ("users", USERS),
    )
    for name in rules
]


@pytest.mark.parametrize(("key", "rules", "name"), RULES)
def test_every_rule_is_read_again_from_what_it_writes(key, rules, name):
    rule = rules[name]()
    assert str(rule).split(":")[0] == name
    assert read_rule(key, str(rule), rules) == rule
    assert type(rule).__doc__


def test_a_rule_made_in_python_is_checked_like_one_that_is_read():
    with pytest.raises(InputError, match=r"dirichlet: alpha: 0\.0 is out of range; it must be > 0"):
        Dirichlet(0)
    with pytest.raises(InputError, match="corruption: kind: unknown 'jpg'; did you mean 'jpeg'"):
        OneCorruption("jpg", 3)


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
        (parse_shift, "corruptions:6", "6 must be a whole number >= 1 and <= 5"),
        (parse_shift, "corruptions", "write corruptions:SEVERITY, e.g. corruptions:3"),
        (
            parse_shift,
            "corruption:jpeg",
            "not of the form corruption:KIND:SEVERITY, e.g. corruption:jpeg:3",
        ),
        (parse_shift, "corruptions:1:2", "not of the form corruptions:SEVERITY"),
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
        check_data(RunConfig(**settings))
    assert said in str(caught.value)


def test_a_real_benchmark_without_a_data_root_names_the_setting(monkeypatch):
    monkeypatch.delenv("FEDADAPT_DATA", raising=False)
    with pytest.raises(InputError, match="set --data-root or FEDADAPT_DATA"):
        check_data(RunConfig(benchmark="mnist"))


def test_too_many_clients_are_refused_with_the_number_that_would_do(tmp_path):
    with pytest.raises(InputError, match=r"clients: 20001 is more than mnist.*at most 20000"):
        check_data(RunConfig(benchmark="mnist", data_root=str(tmp_path), clients=20_001))
    check_data(RunConfig(benchmark="mnist", data_root=str(tmp_path), clients=20_000))


def test_missing_extras_are_named_with_the_command_that_installs_them(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    with pytest.raises(
        InputError, match=r'flwr_datasets; run pip install "fedadapt\[simulation\]"'
    ):
        check_data(RunConfig(benchmark="mnist", data_root=str(tmp_path)))
    with pytest.raises(InputError, match="spatter corruption needs cv2"):
        check_data(RunConfig(shift="corruptions:3"))
    check_data(RunConfig())  # the built-in benchmarks need neither
    check_data(RunConfig(partition="dirichlet:0.3", shift="corruption:jpeg:3"))
    check_data(RunConfig(benchmark="cifar10", data_root=str(tmp_path)))  # class types


def test_a_folder_is_checked_for_domains_classes_and_images(tmp_path):
    touch(tmp_path, *(f"{d}/{c}/{n}.jpg" for d in "ab" for c in ("cat", "dog") for n in range(5)))
    name = f"folder:{tmp_path}"
    check_data(RunConfig(benchmark=name, clients=4))
    assert find_benchmark(name).classes == 2
    assert find_benchmark(name).domains == 2
    with pytest.raises(InputError, match="1 is fewer than the 2 domains"):
        check_data(RunConfig(benchmark=name, clients=1))
    with pytest.raises(InputError, match=r"7 is more than .* can serve; at most 6"):
        check_data(RunConfig(benchmark=name, clients=7))
    with pytest.raises(InputError, match="pathological:3 asks for more than the 2 classes"):
        check_data(RunConfig(benchmark=name, clients=4, partition="pathological:3"))
    (tmp_path / "b" / "emu").mkdir()
    with pytest.raises(InputError, match="class 'emu' has no images"):
        check_data(RunConfig(benchmark=name, clients=4))


def test_an_empty_folder_and_a_single_class_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        find_benchmark(f"folder:{tmp_path}")
    touch(tmp_path, "a/cat/1.jpg")
    with pytest.raises(InputError, match="one class, 'cat'"):
        find_benchmark(f"folder:{tmp_path}")


def test_the_listing_tells_what_is_there_and_where_the_rest_must_go(tmp_path, monkeypatch):
    monkeypatch.delenv("FEDADAPT_DATA", raising=False)
    entries = {entry.name: entry for entry in ENTRIES}
    touch(tmp_path, "usps.npz", *entries["mnist"].files)
    rows = {row.name: row for row in benchmark_rows(str(tmp_path))}
    any_data = ["folder:/path", "clients:/path", "npz:/path", "hf:NAME?client=COLUMN&label=COLUMN"]
    assert list(rows) == [*entries, *any_data]
    assert rows["har"].where == f"{tmp_path}: UCI HAR Dataset/ or har.npz"
    assert rows["iwildcam"].where == f"{tmp_path}: iwildcam.npz"
    assert rows["digits-classes"].found
    assert rows["mnist"].found
    assert rows["usps"].where == str(tmp_path / "usps.npz")
    assert not rows["cifar10"].found
    assert "cifar-10-batches-py/ or cifar10.npz" in rows["cifar10"].where
    assert not {row.name: row for row in benchmark_rows()}["mnist"].found


def test_sizes_are_those_of_the_files_that_are_there(tmp_path):
    def images(root) -> dict[str, str]:
        return {row.name: row.images for row in benchmark_rows(str(root))}

    assert images(tmp_path)["svhn"] == "73,257 + 26,032 of 32x32x3"
    np.savez(tmp_path / "svhn.npz", x_train=np.zeros((554, 2)), y_train=np.zeros(554),
             x_test=np.zeros((486, 2)), y_test=np.zeros(486))  # fmt: skip
    np.savez_compressed(tmp_path / "har.npz", x=np.zeros((1_200, 1)), y=np.zeros(1_200), n=3)
    (tmp_path / "usps.npz").write_bytes(b"no archive")
    found = images(tmp_path)
    assert found["svhn"] == "554 + 486 of 32x32x3"
    assert found["har"] == "1,200 of 9x128"
    assert found["usps"] == "7,291 + 2,007 of 16x16x1"  # who reads it says what is wrong


def test_shares_of_drawn_classes_are_those_of_the_rule():
    """Of clients that draw from pools: [D, C], whose rows sum to 1."""
    rng = np.random.default_rng
    pathological = Pathological(k=3).shares(200, 5, rng(1))
    assert set(pathological.ravel().tolist()) == {0.0, 1 / 3}  # three different classes each
    assert ((pathological > 0).sum(1) == 3).all()
    shards = Shards(k=3).shares(200, 5, rng(1))
    assert set(shards.ravel().tolist()) == {0.0, 1 / 3, 2 / 3, 1.0}  # a class may be drawn again
    np.testing.assert_allclose(shards.sum(1), 1)
    dirichlet = Dirichlet(alpha=0.1).shares(50, 5, rng(1))
    np.testing.assert_array_equal(dirichlet, rng(1).dirichlet([0.1] * 5, 50))
    np.testing.assert_array_equal(Iid().shares(2, 4, rng(1)), np.full((2, 4), 0.25))
    types = ClassTypes(k=2).shares(4, 5, rng(1))
    assert sorted({tuple(row) for row in types.tolist()}) == [
        (0, 0, 0, 0.5, 0.5), (1 / 3, 1 / 3, 1 / 3, 0, 0)]  # fmt: skip


def test_a_long_tail_is_exact_leaves_no_class_out_and_chooses_at_random():
    labels = np.repeat(np.arange(4), 1000)
    rows = np.arange(len(labels))

    def chosen(factor: float, seed: int = 1, rows=rows) -> np.ndarray:
        return LongTail(factor=factor).choose(rows, labels, np.random.default_rng(seed))

    counts = [np.bincount(labels[chosen(factor)]).tolist() for factor in (0.001, 1e-9)]
    assert counts == [[1000, 100, 10, 1], [1000, 1, 1, 1]]
    assert set(chosen(0.001, seed=1)) != set(chosen(0.001, seed=2))
    two = np.repeat(np.arange(2), 100)  # 100 * 0.29 is a hair below 29 in floating point
    kept = LongTail(factor=0.29).choose(np.arange(200), two, np.random.default_rng(1))
    assert np.bincount(two[kept]).tolist() == [100, 29]
    few = np.concatenate([rows[:5], rows[1000:]])  # a class that has fewer keeps all
    assert np.bincount(labels[chosen(0.5, rows=few)])[0] == 5


def test_sizes_are_those_of_the_rule_on_any_scale():
    rank, normal = np.arange(1.0, 5), np.array([0.0, 1.0, -1.0, 2.0])

    def sizes(text: str) -> np.ndarray:
        found = parse_quantity(text).sizes(rank, normal)
        return found / found[0]

    np.testing.assert_allclose(sizes("even"), [1, 1, 1, 1])
    np.testing.assert_allclose(sizes("linear"), [1, 2, 3, 4])
    np.testing.assert_allclose(sizes("square"), [1, 4, 9, 16])
    np.testing.assert_allclose(sizes("exponential"), np.exp([0, 1, 2, 3]))
    np.testing.assert_allclose(sizes("lognormal:0.5"), np.exp([0, 0.5, -0.5, 1]))


def test_kinds_are_named_by_their_classes_and_long_names_by_both_ends():
    assert ClassTypes(k=3).kind_names(tuple("abcdef"), 2) == ["a+b+c", "d+e+f"]
    assert ClassTypes(k=4).kind_names(tuple("abcdefgh"), 2) == ["a..d", "e..h"]


def test_a_bad_benchmark_is_refused_fast_and_without_torch_or_numpy():
    program = (
        "import sys, time; start = time.perf_counter()\n"
        "from fedadapt.config import RunConfig\n"
        "from fedadapt.datasets.data_spec import check_data\n"
        "from fedadapt.datasets.listing import benchmark_rows\n"
        "check_data(RunConfig()); benchmark_rows()\n"
        "try: check_data(RunConfig(benchmark='minst'))\n"
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
