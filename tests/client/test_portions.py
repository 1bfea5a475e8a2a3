"""The same clients with some of their images."""

import pytest
import torch
from toys import cohort, conv, initials, split

from fedadapt.client.adaptations.fine_tune import FineTune
from fedadapt.client.adaptations.prototype import Prototype
from fedadapt.client.cohort import Schedule
from fedadapt.client.portions import batch_by_batch, with_few
from fedadapt.datasets.benchmark import Examples, Split

SPLITS = [split(25, adapt=9), split(6, adapt=4), split(12, adapt=5)]


def members(splits=SPLITS, **changes):
    return cohort(conv(), splits, **changes)


def in_rows(some, every):
    """The rows of ``every`` that these images are."""
    same = (some.inputs.flatten(1)[:, None] == every.inputs.flatten(1)[None]).all(2)
    assert (same.sum(1) == 1).all()
    return same.int().argmax(1).tolist()


@pytest.mark.parametrize("part", ["train", "adapt"])
def test_so_many_of_each_class_and_few_are_some_of_more(part):
    before = members().part(part)
    more = set()
    for most in (1, 2, 100):
        few = with_few(members(), part, most)
        chosen = set()
        for d, (some, every) in enumerate(zip(few.part(part), before, strict=True)):
            counts = torch.bincount(every.labels).clamp(max=most)
            assert torch.equal(torch.bincount(some.labels, minlength=len(counts)), counts)
            rows = in_rows(some, every)
            assert torch.equal(every.labels[rows], some.labels)
            chosen |= {(d, row) for row in rows}
        assert more <= chosen
        more = chosen
    assert len(more) == sum(map(len, before))
    assert with_few(members(), part, 0).part(part) == before
    other = "adapt" if part == "train" else "train"
    assert with_few(members(), part, 1).part(other) == members().part(other)


def test_the_client_and_the_round_decide_and_nobody_else():
    alone = with_few(members([*SPLITS[:2], split(30)]).only(2), "train", 2).part("train")[0]
    among = with_few(members([*SPLITS[:2], split(30)]), "train", 2).part("train")[2]
    assert torch.equal(alone.inputs, among.inputs)
    several = {
        tuple(in_rows(with_few(members(round=r), "train", 1).part("train")[0], SPLITS[0].train))
        for r in range(5)
    }
    assert len(several) > 1


def test_fine_tuning_and_prototypes_use_the_same_few_images():
    """Each does on these images alone what it does with ``shots``."""
    few = with_few(members(), "train", 2)
    weights = initials(conv(), 3)
    for make in (lambda **k: FineTune(epochs=2, **k), Prototype):
        wanted = make().adapt(few, weights)
        found = make(shots=2).adapt(members(), weights)
        assert all(torch.equal(t, wanted[n]) for n, t in found.items())
        everything = make().adapt(members(), weights)
        assert not all(torch.equal(t, everything[n]) for n, t in found.items())


def test_batches_are_those_of_training():
    schedule = Schedule(4, 1, "adapt", "a purpose")
    seen = []
    for (places, some), groups in zip(
        batch_by_batch(members(), schedule), members().steps(schedule), strict=True
    ):
        assert places == sorted(d for of_group, _ in groups for d in of_group)
        assert some.clients == tuple(members().clients[d] for d in places)
        for of_group, batch in groups:
            for d, labels in zip(of_group, batch.labels, strict=True):
                own = some.part("adapt")[places.index(d)]
                assert sorted(own.labels.tolist()) == sorted(labels.tolist())
        seen += [
            (d, row)
            for d, images in zip(places, some.part("adapt"), strict=True)
            for row in in_rows(images, SPLITS[d].adapt)
        ]
    assert sorted(seen) == [
        (d, row) for d, own in enumerate(SPLITS) for row in range(len(own.adapt))
    ]


def test_states_go_with_their_clients():
    states = [{"own": {"x": torch.full((1,), float(d))}} for d in range(3)]
    given = members(states=tuple(states))
    *_, (places, some) = batch_by_batch(given, Schedule(4, 1, "adapt", "any"))
    assert places == [0]
    assert some.states == (states[0],)


def test_a_client_of_one_class():
    one = Examples(SPLITS[0].train.inputs[:5], torch.full((5,), 2))
    few = with_few(members([Split(one, one, one)]), "train", 3)
    assert few.part("train")[0].labels.tolist() == [2, 2, 2]
