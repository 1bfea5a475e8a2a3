"""Groups stay whole, classes stay in proportion, and owners keep what is theirs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedadapt.config import RunConfig
from fedadapt.datasets.data_spec import DataSpec
from fedadapt.datasets.load import load_benchmark
from fedadapt.datasets.partitioning.assign import assign
from fedadapt.datasets.partitioning.whole_groups import (
    groups_of,
    representatives,
    three_sets_of_groups,
)
from fedadapt.datasets.sources.image_store import store_of
from fedadapt.errors import InputError

SETS = ("train", "adapt", "test")


def cut(groups, labels, seed=0, shares=(0.2, 0.2)):
    rows = np.arange(len(groups))
    rng = np.random.default_rng(seed)
    return three_sets_of_groups(rows, np.array(groups), np.array(labels), *shares, rng)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=3, max_size=12),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_no_group_is_parted_none_is_lost_and_no_set_is_empty(sizes, num_classes, seed):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(seed).integers(0, num_classes, len(groups))
    split = cut(groups, labels, seed)
    assert sorted(np.concatenate(split)) == list(range(len(groups)))
    assert all(len(rows) for rows in split)
    homes = [set(groups[rows]) for rows in split]
    assert sum(map(len, homes)) == len(sizes)


def test_equal_groups_of_one_class_each_are_shared_out_exactly():
    groups = np.repeat(np.arange(30), 4)  # ten groups of each of three classes
    labels = groups % 3
    for seed in range(5):
        split = cut(groups, labels, seed)
        counts = [np.bincount(labels[rows], minlength=3).tolist() for rows in split]
        assert counts == [[24] * 3, [8] * 3, [8] * 3]
    assert not all(np.array_equal(a, b) for a, b in zip(cut(groups, labels, 1), split, strict=True))


def test_representatives_know_their_groups():
    groups = np.array([5, 3, 5, 3, 9, 5])
    firsts, members = representatives(np.array([5, 4, 2, 1]), groups)
    assert firsts.tolist() == [1, 4, 5]
    assert {row: sorted(all_of) for row, all_of in members.items()} == {1: [1], 4: [4], 5: [2, 5]}


def made(num=120, owners=4, **others):
    """Small images of ``owners`` clients, in groups of four."""
    rng = np.random.default_rng(7)
    rows = np.arange(num)
    given = {"clients": rows % owners, "groups": rows // (4 * owners)}
    images = rng.integers(0, 256, (num, 4, 4), np.uint8)
    labels = (rows // owners // 2) % 3
    return store_of("made", images, labels, **{**given, **others})


def assigned(store, **changes):
    spec = DataSpec.of(RunConfig(benchmark="npz:made.npz", **{"clients": 0, **changes}))
    return assign(spec.resolved(len(store.owners)), store)


def test_every_owner_is_a_client_with_its_own_inputs_in_whole_groups():
    store = made()
    found = assigned(store)
    assert len(found.clients) == 4
    seen = []
    for client, split in enumerate(found.clients):
        assert set(store.owner_of[np.concatenate(split)]) == {client}
        homes = [set(store.group_of[rows]) for rows in split]
        assert not homes[0] & homes[1]
        assert not homes[0] & homes[2]
        assert not homes[1] & homes[2]
        seen += np.concatenate(split).tolist()
    assert sorted(seen) == list(range(len(store)))


def test_equal_numbers_of_two_owners_are_two_groups():
    store = made()
    assert len(np.unique(store.group_of)) == 4 * len(np.unique(np.arange(120) // 16))


def test_any_partition_leaves_groups_whole_over_all_clients():
    store = made(groups=np.arange(120) // 4, clients=None)
    for rules in ({"partition": "iid", "quantity": "linear"}, {"partition": "class-types:1"}):
        found = assigned(store, clients=5, **rules)
        homes = [set(store.group_of[rows]) for split in found.clients for rows in split]
        assert sum(map(len, homes)) == len(set().union(*homes)) == 30


def test_the_split_that_ignores_groups_parts_them():
    store = made()
    found = assigned(store, split="ungrouped")
    parted = [
        set(store.group_of[split.train]) & set(store.group_of[split.test])
        for split in found.clients
    ]
    assert all(parted)


def test_fewer_clients_are_drawn_by_the_seed():
    store = made(owners=12)
    draws = [assigned(store, clients=3, seed=seed).owners.tolist() for seed in (1, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len({tuple(each) for each in draws}) > 1
    assert all(each == sorted(set(each)) for each in draws)


def test_owners_with_too_little_are_left_out_and_counted():
    rows = np.arange(60)
    clients = np.where(rows < 4, 9, rows % 3)  # the ninth has one group of four
    found = assigned(made(60, clients=clients, groups=rows // 4))
    assert len(found.clients) == 3
    assert found.left_out_owners == 1
    with pytest.raises(InputError, match=r"clients: 4 is more than the 3 that .* \(1 more have"):
        assigned(made(60, clients=clients, groups=rows // 4), clients=4)


def test_a_limit_of_examples_takes_from_all_sets():
    found = assigned(made(), examples=10)
    assert all([len(rows) for rows in split] == [6, 2, 2] for split in found.clients)


def test_identical_inputs_of_an_owner_join_their_groups():
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 2), np.uint8)
    images[3], images[5] = images[0], images[1]
    store = store_of("s", images, [0, 1] * 3, clients=[0, 0, 0, 0, 1, 1], groups=[0, 0, 1, 2, 3, 3])
    groups = groups_of(store, join_identical=True)
    assert len(set(groups[[0, 1, 3]])) == 1
    assert len(set(groups)) == 3  # {0, 1, 3}, {2}, {4, 5}: the other owner's copy stays its own
    assert groups_of(store, join_identical=False) is store.group_of


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"clients": 5},
            "clients: 5 is more than the 4 that npz:made.npz has; set clients=4, or 0",
        ),
        ({"quantity": "linear"}, "quantity: linear; with partition natural the sizes are"),
        ({"split": "pooled"}, "split: pooled; every client has images of its own"),
    ],
)
def test_what_owned_data_do_not_allow_is_one_line(changes, said):
    with pytest.raises(InputError, match=said):
        assigned(made(), **changes)


def test_data_that_belong_to_nobody_cannot_be_natural():
    with pytest.raises(InputError, match=r"partition: natural; the images of .* belong to nobody"):
        assigned(made(clients=None), partition="natural", clients=3)
    with pytest.raises(InputError, match="partition: natural; the images of mnist belong to"):
        load_benchmark(RunConfig(benchmark="mnist", partition="natural", data_root="/"))
    with pytest.raises(InputError, match="clients: 0 is for `flwr run`"):
        assigned(made(clients=None, groups=None))


def test_the_kind_of_an_owner_is_its_commonest_domain():
    rows = np.arange(120)
    domains = np.where(rows % 4 < 2, "day", "night")
    domains[:4] = "night"
    store = store_of("s", np.zeros((120, 2, 2), np.uint8) + rows[:, None, None].astype(np.uint8),
                     rows % 3, domains, clients=rows % 4)  # fmt: skip
    assert assigned(store).kinds == ("day", "day", "night", "night")


def test_the_inputs_are_what_was_given():
    store = made()
    assert store.inputs.dtype == torch.uint8
    assert store.kind == "images"
