"""Which images a client goes through, and that it never matters who else is there."""

import numpy as np
import pytest
import torch
from torch import nn
from toys import cohort, dense, examples, split

from fedadapt.client.cohort import Schedule
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.errors import InputError


def numbered(count):
    """A client whose image i has the value i and the label i."""
    values = torch.arange(count)
    one = Examples(values.double().view(-1, 1), values)
    return Split(one, one, one)


def batches(members, schedule):
    """Labels of each batch, by position of the client."""
    found = {d: [] for d in range(len(members))}
    for groups in members.steps(schedule):
        for clients, batch in groups:
            for row, d in enumerate(clients):
                found[d].append(batch.labels[row].tolist())
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 8, 9, 100])
def test_every_image_is_seen_once_an_epoch(batch_size):
    members = cohort(dense(), [numbered(9)])
    [found] = batches(members, Schedule(batch_size, 3)).values()
    per_epoch = len(found) // 3
    for epoch in range(3):
        drawn = found[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(i for batch in drawn for i in batch) == list(range(9))


def test_an_image_never_makes_a_batch_of_its_own_unless_asked_for():
    members = cohort(dense(), [numbered(9)])
    assert [len(b) for b in batches(members, Schedule(4))[0]] == [4, 5]
    assert [len(b) for b in batches(members, Schedule(8))[0]] == [9]
    assert [len(b) for b in batches(members, Schedule(1))[0]] == [1] * 9
    assert [len(b) for b in batches(members, Schedule(7))[0]] == [7, 2]
    assert [len(b) for b in batches(cohort(dense(), [numbered(1)]), Schedule(7))[0]] == [1]


def test_inputs_and_labels_stay_together_and_are_scaled_once():
    members = cohort(dense(), [numbered(9), numbered(5)], scaling=lambda x: 2 * x + 1)
    for groups in members.steps(Schedule(4)):
        for _, batch in groups:
            torch.testing.assert_close(batch.inputs[..., 0], 2 * batch.labels.double() + 1)


def test_a_client_that_is_done_appears_in_no_further_step():
    members = cohort(dense(), [numbered(4), numbered(11)])
    found = batches(members, Schedule(4))
    assert [len(b) for b in found[0]] == [4]
    assert [len(b) for b in found[1]] == [4, 4, 3]


def test_a_clients_batches_depend_neither_on_the_other_clients_nor_on_their_order():
    three, other = [numbered(9), numbered(5), numbered(12)], (10, 11, 12)
    all_three = batches(cohort(dense(), three), Schedule(4, 2))
    turned = batches(cohort(dense(), three[::-1], clients=other[::-1]), Schedule(4, 2))
    assert [all_three[d] for d in range(3)] == [turned[d] for d in (2, 1, 0)]
    for d in range(3):
        assert batches(cohort(dense(), three).only(d), Schedule(4, 2))[0] == all_three[d]


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        ({"seed": 1}, Schedule(4)),
        ({"round": 1}, Schedule(4)),
        ({"clients": (11,)}, Schedule(4)),
        ({}, Schedule(4, purpose="kd")),
    ],
    ids=["seed", "round", "client", "purpose"],
)
def test_the_order_of_images_differs_by_seed_round_client_and_purpose(settings, schedule):
    usual = batches(cohort(dense(), [numbered(20)]), Schedule(4))[0]
    assert batches(cohort(dense(), [numbered(20)]), Schedule(4))[0] == usual
    assert batches(cohort(dense(), [numbered(20)], **settings), schedule)[0] != usual


def test_epochs_are_shuffled_anew():
    [found] = batches(cohort(dense(), [numbered(20)]), Schedule(20, 2)).values()
    assert found[0] != found[1]


def test_drawing_batches_leaves_the_global_generators_alone():
    members = cohort(dense(), [numbered(9)])
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    list(members.steps(Schedule(4)))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()  # noqa: NPY002


def test_the_part_is_the_one_asked_for():
    own = split(train=7, adapt=4, test=3)
    members = cohort(dense(), [own])
    [[(_, batch)]] = list(members.steps(Schedule(100, part="adapt")))
    assert sorted(batch.labels[0].tolist()) == sorted(own.adapt.labels.tolist())
    assert members.num_examples.tolist() == [7.0]


def test_a_client_without_images_says_so():
    members = cohort(dense(), [Split(examples(0), examples(2), examples(2))])
    with pytest.raises(ValueError, match="no train images"):
        list(members.steps(Schedule(4)))


def test_what_a_client_kept_comes_before_what_it_is_sent():
    received = {"w": torch.tensor([[1.0], [2.0], [3.0]])}
    own = {"norms": {"w": torch.tensor([9.0])}}
    members = cohort(nn.Linear(1, 1), [numbered(3)] * 3, states=({}, own, {"other": received}))
    assert members.state("norms", received)["w"].flatten().tolist() == [1, 9, 3]
    assert members.only(1).state("norms", {"w": received["w"][1:2]})["w"].tolist() == [[9.0]]
    assert cohort(nn.Linear(1, 1), [numbered(3)] * 3).state("norms", received) is received


def test_which_clients_kept_a_part():
    own = {"norms": {"w": torch.tensor([9.0])}}
    members = cohort(nn.Linear(1, 1), [numbered(3)] * 3, states=({}, own, {"other": {}}))
    assert members.has("norms").tolist() == [False, True, False]
    assert members.has("norms").dtype == torch.bool
    assert members.only(1).has("norms").tolist() == [True]
    assert cohort(nn.Linear(1, 1), [numbered(3)] * 2).has("norms").tolist() == [False, False]


# A part of the images


def train_values(members):
    return [s.train.labels.tolist() for s in members.splits]


def test_a_subset_is_drawn_without_replacement_by_each_client_for_itself():
    members = cohort(dense(), [numbered(10), numbered(5), numbered(1)])
    found = members.subset(0.8, "ala")
    assert [len(set(values)) for values in train_values(found)] == [8, 4, 1]
    assert all(values == sorted(values) for values in train_values(found))
    for own in found.splits:
        assert torch.equal(own.train.inputs[:, 0].long(), own.train.labels)
    assert train_values(members.subset(0.8, "ala")) == train_values(found)
    assert train_values(members.only(1).subset(0.8, "ala"))[0] == train_values(found)[1]
    assert train_values(members.subset(0.8, "other")) != train_values(found)
    assert found.splits[0].adapt is members.splits[0].adapt
    assert found.num_examples.tolist() == [8, 4, 1]


def test_a_subset_of_all_is_all_and_of_little_one_and_may_be_bounded():
    members = cohort(dense(), [numbered(10), numbered(5)])
    assert train_values(members.subset()) == train_values(members)
    assert [len(v) for v in train_values(members.subset(0.01))] == [1, 1]
    assert [len(v) for v in train_values(members.subset(most=7))] == [7, 5]


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_a_subset_of_no_images_or_of_more_than_all_is_an_error(share):
    with pytest.raises(InputError, match="subset: share"):
        cohort(dense(), [numbered(10)]).subset(share)


# A number of steps


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_a_schedule_of_steps_is_the_beginning_of_one_of_epochs(steps):
    members = cohort(dense(), [numbered(9), numbered(3), numbered(12)])
    found = batches(members, Schedule(4, steps=steps))
    long = batches(members, Schedule(4, 7))
    for d in range(3):
        assert found[d] == long[d][:steps]
        assert len(found[d]) == steps
        assert batches(members.only(d), Schedule(4, steps=steps))[0] == found[d]


def test_less_than_one_step_is_an_error():
    with pytest.raises(InputError, match="steps 0"):
        list(cohort(dense(), [numbered(9)]).steps(Schedule(4, steps=0)))
