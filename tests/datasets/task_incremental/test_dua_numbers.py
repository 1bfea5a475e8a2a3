"""``dua-numbers``: two domains of digits, users who hold one or a mixture."""

import numpy as np
import pytest
from task_sets import load

from fedadapt.config import RunConfig
from fedadapt.datasets.task_incremental import dua_numbers as task_numbers
from fedadapt.datasets.task_incremental.load import load_tasks
from fedadapt.datasets.task_incremental.task_entries import TASK_ENTRIES
from fedadapt.datasets.task_incremental.task_listing import task_rows
from fedadapt.datasets.task_incremental.task_spec import check_tasks
from fedadapt.datasets.task_incremental.users import mixtures


def test_two_users_of_numbers_hold_a_domains_test_images_each(root):
    benchmark = load(root, benchmark="dua-numbers", clients=2)
    assert benchmark.kinds == ("usps", "mnist")
    assert benchmark.image_shape == (3, 28, 28)
    assert benchmark.scaling.mean == (0.1307,) * 3
    ends = [range(600, 1001), range(1601, 2002)]  # the test parts of USPS and MNIST
    for client, numbers in enumerate(ends):
        own = np.concatenate([half for t in range(5) for half in benchmark.users(t, 1)[client]])
        assert sorted(own) == list(numbers)
    found = benchmark.tasks[0].train.inputs
    assert (found == found[:, :1]).all()  # grey images have three equal channels


def test_more_users_of_numbers_are_a_scale_of_mixtures():
    pools = (np.arange(1000), np.arange(1000, 2000))
    users = mixtures(pools, 5, np.random.default_rng(0))
    shares = [(half >= 1000).mean() for user in users for half in user]
    assert shares == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1]
    held = np.concatenate([half for user in users for half in user])
    assert len(np.unique(held)) == len(held) == 2000


def test_the_whole_svhn_goes_before_usps_and_its_middle_is_taken(root, monkeypatch):
    monkeypatch.setattr(task_numbers, "WHOLE_SVHN", 500)
    benchmark = load(root, benchmark="dua-numbers", clients=2)
    assert benchmark.kinds == ("svhn", "mnist")
    with np.load(f"{root}/svhn.npz") as file:
        middle = file["x_test"][:, 2:30, 2:30].transpose(0, 3, 1, 2)
    rows = benchmark.users(0, 1)[0]
    assert np.array_equal(benchmark.of_task(0).split(0).test.inputs, middle[rows.test - 600])


def test_a_domain_gives_a_task_no_more_than_the_cap(root, monkeypatch):
    monkeypatch.setattr(task_numbers, "CAP", 50)
    for rows in load(root, benchmark="dua-numbers").server:
        own = np.concatenate(rows)
        assert [(own < 1001).sum(), (own >= 1001).sum()] == [50, 50]
        assert (len(rows.train), len(rows.validation)) == (80, 20)


def test_real_mnist_and_usps_make_numbers(data_root):
    if not (data_root / "MNIST").is_dir() or not (data_root / "usps.npz").is_file():
        pytest.skip("no MNIST or USPS under FEDADAPT_DATA")
    config = RunConfig(benchmark="dua-numbers", data_root=str(data_root), clients=2)
    check_tasks(config)
    benchmark = load_tasks(config)
    if benchmark.kinds != ("usps", "mnist"):
        pytest.skip("the whole SVHN is there")
    sizes = [sum(map(len, rows)) for rows in benchmark.server]
    assert sizes[0] == 1194 + 1005 + 10_000  # USPS has 1,194 zeros and 1,005 ones to train on
    tests = [sum(len(h) for t in range(5) for h in benchmark.users(t, 1)[d]) for d in (0, 1)]
    assert tests == [2007, 10_000]


def test_all_benchmarks_with_tasks_are_listed_with_what_is_there(root, tmp_path):
    rows = {row.name: row for row in task_rows(root)}
    assert rows.keys() == {entry.name for entry in TASK_ENTRIES}
    assert {name for name, row in rows.items() if row.found} == {
        "dua-numbers", "cifar10-tasks", "digits-tasks", "mnist-tasks", "usps-tasks", "svhn-tasks",
    }  # fmt: skip
    assert rows["cifar10-tasks"][2:5] == (5, 10, "same-images, corruptions:3")
    assert [row.name for row in task_rows(str(tmp_path)) if row.found] == ["digits-tasks"]
