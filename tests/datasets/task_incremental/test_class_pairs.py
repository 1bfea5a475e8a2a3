"""Task-incremental benchmarks over data in memory: pairs of classes."""

import numpy as np
import pytest
import torch
from task_sets import images, load

from fedadapt.config import RunConfig
from fedadapt.datasets.feature_shift.shift import shifted
from fedadapt.datasets.feature_shift.spec import parse_shift
from fedadapt.datasets.task_incremental import class_pairs
from fedadapt.datasets.task_incremental.benchmark import DRAWS, TaskBenchmark
from fedadapt.datasets.task_incremental.task_entries import NAMED, TASK_ENTRIES
from fedadapt.datasets.task_incremental.task_spec import TaskSpec
from fedadapt.datasets.task_incremental.users import category_prior, preferences, same_images
from fedadapt.errors import InputError

CASES = [
    {"benchmark": "digits-tasks"},
    {"benchmark": "digits-tasks", "shift": "rotation", "clients": 3},
    {"benchmark": "cifar10-tasks", "clients": 10},
    {"benchmark": "cifar10-tasks", "partition": "category-prior", "clients": 60},
    {"benchmark": "mnist-tasks", "shift": "rotation", "clients": 3},
    {"benchmark": "svhn-tasks", "partition": "category-prior"},
    {"benchmark": "dua-numbers", "clients": 2},
    {"benchmark": "dua-numbers", "clients": 7},
]


def rows_of(benchmark: TaskBenchmark, draw: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every user's images of every task, to adapt with and to test on."""
    return [rows for task in range(benchmark.num_tasks) for rows in benchmark.users(task, draw)]


@pytest.mark.parametrize("settings", CASES)
def test_nobodys_test_image_is_used_for_anything_else(root, settings):
    benchmark = load(root, **settings)
    server = [part for rows in benchmark.server for part in rows]
    everything = np.concatenate(server)
    assert len(np.unique(everything)) == len(everything)
    for draw in range(1, DRAWS + 1):
        adapt, test = (np.concatenate(half) for half in zip(*rows_of(benchmark, draw), strict=True))
        assert not np.intersect1d(adapt, test).size
        assert not np.intersect1d(np.concatenate((adapt, test)), everything).size
        for parts in rows_of(benchmark, draw):
            assert all(len(part) >= 2 for part in parts)
            assert all(len(np.unique(part)) == len(part) for part in parts)


@pytest.mark.parametrize("settings", CASES)
def test_equal_settings_give_equal_images_and_another_seed_or_draw_others(root, settings):
    first, again, other = (
        load(root, **settings),
        load(root, **settings),
        load(root, seed=2, **settings),
    )
    assert first.manifest == again.manifest
    assert first.manifest.hash != other.manifest.hash
    last = first.num_clients - 1
    one, two = (b.of_task(3, 2).split(last).test for b in (first, again))
    assert torch.equal(one.inputs, two.inputs)
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(first.tasks[0].train.inputs, again.tasks[0].train.inputs)
    for moved in (first.of_task(3, 1).split(last).test, other.of_task(3, 2).split(last).test):
        assert not torch.equal(one.inputs, moved.inputs)
    assert first.of_task(3, 1).manifest.hash != first.of_task(3, 2).manifest.hash


def backwards(parts):
    return type(parts)(*(part[::-1] for part in parts))


def test_the_manifest_covers_who_holds_which_images_in_every_draw(monkeypatch):
    plain = load().manifest
    server_split, category_prior = class_pairs.server_split, class_pairs.category_prior
    with monkeypatch.context() as patch:
        patch.setattr(class_pairs, "server_split", lambda *args: backwards(server_split(*args)))
        server = load().manifest
    calls = iter(range(1, 1000))

    def last_is_other(*args):
        users = category_prior(*args)
        return [backwards(users[0]), *users[1:]] if next(calls) == 5 * DRAWS else users

    with monkeypatch.context() as patch:
        patch.setattr(class_pairs, "category_prior", last_is_other)
        users = load().manifest
    assert plain.metadata == server.metadata == users.metadata
    assert len({plain.hash, server.hash, users.hash}) == 3


@pytest.mark.parametrize("settings", CASES)
def test_a_view_is_an_ordinary_benchmark_of_one_task(root, settings):
    benchmark = load(root, **settings)
    for number, task in enumerate(benchmark.tasks):
        view = benchmark.of_task(number)
        assert view.classes == task.classes
        assert view.num_classes == 2
        assert view.kinds == benchmark.kinds
        assert len(view.kinds) == view.num_clients == settings.get("clients", 5)
        assert not view.unseen
        assert view.global_test is None
        train, adapt, test = view.split(view.num_clients - 1)
        assert train is adapt
        assert view.num_train_examples(view.num_clients - 1) == len(adapt)
        for part in (adapt, test, task.train, task.validation):
            assert part.inputs.shape[1:] == view.image_shape == benchmark.image_shape
            assert part.inputs.dtype == torch.uint8
            assert set(part.labels.tolist()) == {0, 1}


def test_the_servers_images_are_split_80_to_20_and_capped_by_examples(root):
    whole = load(root, benchmark="cifar10-tasks")
    assert [(len(t.train), len(t.validation)) for t in whole.tasks] == [(96, 24)] * 5
    small = load(root, benchmark="cifar10-tasks", examples=40)
    assert [(len(t.train), len(t.validation)) for t in small.tasks] == [(40, 10)] * 5
    assert torch.equal(small.tasks[1].train.inputs, whole.tasks[1].train.inputs[:40])


def test_labels_are_those_of_the_images():
    from sklearn.datasets import load_digits

    digits = load_digits()
    known = {
        np.rint(image * (255 / 16)).astype(np.uint8).tobytes(): int(label)
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    benchmark = load()
    for number, task in enumerate(benchmark.tasks):
        for part in (task.train, benchmark.of_task(number).split(1).test):
            found = [known[image.numpy().tobytes()] for image in part.inputs]
            assert found == (part.labels + 2 * number).tolist()
            assert [task.classes[label] for label in part.labels] == list(map(str, found))


def test_category_prior_users_hold_four_fifths_of_the_class_their_kind_names():
    benchmark = load(clients=8)
    for task in range(5):
        view = benchmark.of_task(task)
        for client, kind in enumerate(benchmark.kinds):
            liked = view.classes.index(kind.split("+")[task])
            for part in view.split(client)[1:]:
                assert torch.bincount(part.labels, minlength=2)[liked] == 16
                assert len(part) == 20


def test_preferences_stay_from_draw_to_draw_and_are_even():
    assert load().kinds == load().kinds
    for num in (1, 5, 200):
        counts = np.bincount(preferences(num, 2, np.random.default_rng(num)), minlength=2)
        assert abs(counts[0] - counts[1]) <= 1


@pytest.mark.parametrize("num", [1, 2, 5, 20, 60])
def test_users_share_no_image_while_the_images_last(num):
    classes = [np.arange(0, 1000), np.arange(1000, 2000)]
    prefers = preferences(num, 2, np.random.default_rng(0))
    users = category_prior(classes, prefers, None, np.random.default_rng(1))
    held = np.concatenate([half for user in users for half in user])
    alone = num < 50  # 50 users of 2 x 20 images use 2,000 up
    assert (len(np.unique(held)) == len(held)) == alone
    if num in (2, 20):  # as many fans of either class: all fits, but for rounding
        assert len(held) > 0.9 * 2000


def test_every_two_users_differ_by_their_camera_only(root):
    benchmark = load(root, benchmark="cifar10-tasks", clients=12)
    view = benchmark.of_task(2)
    rows = [view.rows(d) for d in range(12)]
    assert all(r is rows[0] for r in rows)
    assert benchmark.kinds[0] == benchmark.kinds[10] == "spatter"
    assert len(set(benchmark.kinds)) == 10
    all_images = benchmark.images
    for client in (4, 9, 11):
        number = int(rows[0].test[3])
        plain = all_images.inputs(np.array([number]), None)[0].permute(1, 2, 0).numpy()
        corrupted = shifted(plain, parse_shift("corruptions:3"), client, number, seed=1)
        assert np.array_equal(view.split(client).test.inputs[3].permute(1, 2, 0).numpy(), corrupted)
        assert not np.array_equal(plain, corrupted)


def test_the_server_sees_no_corruption(root):
    plain = load(root, benchmark="cifar10-tasks", partition="category-prior")
    corrupted = load(root, benchmark="cifar10-tasks")
    for one, other in zip(plain.tasks, corrupted.tasks, strict=True):
        assert torch.equal(one.train.inputs, other.train.inputs)


def test_any_data_set_with_a_test_part_has_pairs_of_its_classes(tmp_path):
    """An odd last class is nobody's; of EMNIST, the 47th."""
    names = {entry.name: len(entry.tasks) for entry in TASK_ENTRIES}
    assert names["emnist-tasks"] == 23
    assert names["cifar100-tasks"] == 50
    assert {"mnist-tasks", "fashion-mnist-tasks", "svhn-tasks", "usps-tasks"} <= names.keys()
    x, y = images(47 * 8, 28, 1, 0)
    y = np.arange(len(y)) % 47
    np.savez(tmp_path / "emnist.npz", x_train=x, y_train=y, x_test=x[::-1], y_test=y[::-1])
    benchmark = load(str(tmp_path), benchmark="emnist-tasks", clients=2, shift="rotation")
    assert benchmark.num_tasks == 23
    assert {len(classes) for classes in benchmark.task_classes} == {2}
    used = [part for rows in benchmark.server for part in rows]
    assert sum(map(len, used)) == 46 * 8


def test_same_images_takes_as_many_as_asked_and_no_more_than_there_are():
    rng = np.random.default_rng(0)
    assert [len(h) for h in same_images(np.arange(3000), 1, None, rng)[0]] == [500, 500]
    assert [len(h) for h in same_images(np.arange(3000), 1, 41, rng)[0]] == [21, 20]
    assert [len(h) for h in same_images(np.arange(30), 1, 400, rng)[0]] == [15, 15]


@pytest.mark.parametrize(
    ("given", "partition", "shift"),
    [
        ({}, "same-images", "corruptions"),
        ({"shift": "none"}, "category-prior", "none"),
        ({"partition": "category-prior:30"}, "category-prior", "none"),
        ({"shift": "rotation"}, "same-images", "rotation"),
        (
            {"partition": "category-prior", "shift": "corruptions:3"},
            "category-prior",
            "corruptions",
        ),
    ],
)
def test_either_partition_or_shift_implies_the_other(given, partition, shift):
    config = RunConfig(benchmark="cifar10-tasks", **given)
    spec = TaskSpec.of(config)
    assert (spec.users.name, spec.shift.name) == (partition, shift)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"benchmark": "cifar-tasks"}, r"^benchmark: unknown 'cifar-tasks'; did you mean"),
        ({"partition": "dirichlet:0.3"}, "^partition: unknown 'dirichlet'; known: category-prior"),
        ({"partition": "category-prior:x"}, "'x' is not a number; write category-prior:IMAGES or"),
        ({"partition": "category-prior:0"}, "0 must be a whole number >= 1"),
        ({"partition": "category-prior:"}, "lacks its number; write category-prior:IMAGES or"),
        ({"partition": "category-prior:5000"}, "^partition: category-prior:5000 images a task"),
        ({"partition": "category-prior:2"}, "a user can hold 4 to"),
        ({"shift": "sepia"}, "^shift: unknown 'sepia'"),
        ({"shift": "native-corruptions:3"}, "^shift: unknown"),
        ({"benchmark": "dua-numbers", "shift": "rotation"}, "^shift: 'rotation'; dua-numbers has"),
        ({"benchmark": "dua-numbers", "partition": "domains:2"}, "domains takes no number"),
        ({"benchmark": "dua-numbers", "clients": 1}, "^clients: 1; dua-numbers needs a user"),
        ({"benchmark": "dua-catprior", "clients": 6}, "^clients: 6; the preferences of dua-cat"),
        ({"quantity": "linear"}, "^quantity: linear; users of digits-tasks adapt to half"),
        ({"test_share": 0.3}, "^test-share: 0.3; users"),
        ({"unseen": 0.2}, "^unseen: 0.2; users"),
        ({"examples": 1}, "^examples: 1 image"),
        ({"image_size": 3}, "^image-size: 3 is out of range"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(root, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        load(root, **settings)
    assert "\n" not in str(caught.value)


def test_a_task_or_draw_that_is_not_there_is_refused():
    benchmark = load()
    for task, draw in ((5, 1), (-1, 1), (0, 0), (0, DRAWS + 1)):
        with pytest.raises(InputError, match=r"there are draws 1 to 5|has tasks 0 to 4"):
            benchmark.of_task(task, draw)


def test_no_clients_means_the_benchmarks_own_number(root):
    for entry in NAMED:
        if not entry.indoor:
            assert load(root, benchmark=entry.name, clients=0).num_clients == entry.clients


def test_real_cifar10_makes_ten_users_of_a_thousand_images(data_root):
    if not (data_root / "cifar10.npz").is_file():
        pytest.skip("no cifar10.npz under FEDADAPT_DATA")
    benchmark = load(str(data_root), benchmark="cifar10-tasks", clients=10)
    assert [(len(r.train), len(r.validation)) for r in benchmark.server] == [(8000, 2000)] * 5
    assert benchmark.task_classes[0] == ("airplane", "automobile")
    assert {len(half) for t in range(5) for half in benchmark.users(t, 5)[9]} == {500}


def test_experts_of_all_but_cifars_images_are_trained_briefly():
    long = {entry.name for entry in TASK_ENTRIES if not entry.short_training}
    assert long == {"cifar10-tasks", "cifar100-tasks"}
