"""Images whose class nobody has told serve whatever reads no labels, and nothing else."""

from dataclasses import replace

import pytest
import torch
from toys import assert_same_bits, cohort, conv, initials, split

from fedadapt.client.adaptations.registry import ADAPTATIONS
from fedadapt.client.cross_fitting import held_out_logits
from fedadapt.client.statistics.importance import importances
from fedadapt.client.statistics.sparsity import sparsity_vectors
from fedadapt.datasets.benchmark import Examples

SPLITS = [split(count, adapt=12, test=5, seed=count) for count in (6, 9)]
MORE = split(1, adapt=7, seed=50).adapt.inputs
FREE = [name for name in ADAPTATIONS.ours if not ADAPTATIONS.find(name).needs_labels]
MOVING = {"adabn", "bn-mix", "tent", "shot-im"}  # whatever they have no labels of


def members(**given):
    """Two clients; the second has more images than labels."""
    return cohort(conv(), SPLITS, **given)


def with_unlabelled(**given):
    return replace(members(**given), unlabelled={11: MORE})


def extended(part: Examples, label: int) -> Examples:
    labels = torch.full((len(MORE),), label)
    return Examples(torch.cat([part.inputs, MORE]), torch.cat([part.labels, labels]))


def as_if_labelled(label: int):
    """The same, where somebody has told that they are all of one class."""
    train, adapt, test = SPLITS[1]
    own = type(SPLITS[1])(extended(train, label), extended(adapt, label), test)
    return replace(members(), splits=(SPLITS[0], own))


def adapted(name: str, cohort):
    brief = {"epochs": 1} if name == "fine-tune" else {}
    adaptation = ADAPTATIONS.find(name)(**brief)
    return adaptation.adapt(adaptation.images_of(cohort), initials(conv(), 2))


@pytest.mark.parametrize("name", [*FREE, "fine-tune", "prototype"])
def test_adaptations_without_labels_use_them_and_others_do_not(name):
    found = adapted(name, with_unlabelled())
    free = not ADAPTATIONS.find(name).needs_labels
    assert_same_bits(found, adapted(name, as_if_labelled(2) if free else members()))
    if name in MOVING:
        bare = adapted(name, members())
        assert any(not torch.equal(found[n][1], bare[n][1]) for n in found)
        assert all(torch.equal(found[n][0], bare[n][0]) for n in found)


def test_in_a_composition_each_part_has_what_it_can_use():
    from fedadapt.client.adaptations.composition import Composition

    parts = (ADAPTATIONS.find("adabn")(), ADAPTATIONS.find("fine-tune")(epochs=1))
    chain = Composition(chain=parts)
    given = with_unlabelled()
    found = chain.adapt(chain.images_of(given), initials(conv(), 2))
    statistics = adapted("adabn", as_if_labelled(0))
    assert_same_bits(found, parts[1].adapt(members(), statistics))


@pytest.mark.parametrize("kind", ["mas", "true-fisher", "fisher"])
def test_importances_but_the_empirical_fisher_are_of_them_too(kind):
    start = initials(conv(), 2)
    found = importances(with_unlabelled(), start, kind=kind)
    same = members() if kind == "fisher" else as_if_labelled(1)
    assert_same_bits(found, importances(same, start, kind=kind))


def test_sparsity_is_of_them_too():
    start = initials(conv(), 2)
    found = sparsity_vectors(with_unlabelled(), start)
    assert torch.equal(found, sparsity_vectors(as_if_labelled(0), start))
    assert not torch.equal(found, sparsity_vectors(members(), start))


def test_held_out_images_are_those_with_labels():
    adabn = ADAPTATIONS.find("adabn")()
    start = initials(conv(), 2)
    answers = held_out_logits(with_unlabelled(), adabn, start, adapted("adabn", members()), None)
    assert [len(labels) for _, labels in answers] == [12, 12]
