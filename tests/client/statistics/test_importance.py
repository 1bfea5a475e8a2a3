"""MAS and the Fisher information of DUA, against their closed forms for softmax regression."""

from dataclasses import replace

import pytest
import torch
from importances import COUNTS, KINDS, SPLITS, gradients, make, shifted
from torch import nn
from toys import assert_close, assert_same_bits, cohort, conv, copied, initials, linear, split

from fedadapt.client.cohort import Schedule
from fedadapt.client.statistics.importance import fisher, importances
from fedadapt.errors import InputError
from fedadapt.models.mode import evaluating, training
from fedadapt.models.network import Network
from fedadapt.weights import repeat, row


def norm_gradients(weights, examples):
    """Of ||F(x)||^2 of each image, by hand: 2 F x^T and 2 F."""
    x = examples.inputs.flatten(1)
    logits = x @ weights["head.weight"].T + weights["head.bias"]
    return {"head.weight": 2 * logits[:, :, None] * x[:, None, :], "head.bias": 2 * logits}


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("part", ["train", "adapt"])
def test_mas_of_a_linear_layer_is_the_mean_of_2_f_x(part, stacked):
    weights = initials(make(), 3)
    found = importances(cohort(make(), SPLITS, stacked=stacked), weights, part=part)
    for d, own in enumerate(SPLITS):
        g = norm_gradients(row(weights, d), getattr(own, part))
        assert_close(row(found, d), {n: t.abs().mean(0) for n, t in g.items()})


def test_empirical_fisher_of_a_linear_layer_is_the_mean_of_squares():
    weights = initials(make(), 3)
    found = importances(cohort(make(), SPLITS), weights, kind="fisher", part="train")
    assert_close(found, fisher(cohort(make(), SPLITS), weights))


@pytest.mark.parametrize(("kind", "power", "by_hand"), [("mas", 1, norm_gradients),
                                                        ("fisher", 2, gradients)])  # fmt: skip
def test_per_batch_each_batch_weighs_the_same(kind, power, by_hand):
    weights, members = initials(make(), 3), cohort(make(), SPLITS)
    given = {"kind": kind, "granularity": "batch", "batch_size": 4}
    found = importances(members, weights, **given)
    for d in range(3):
        means = []
        for [(_, batch)] in members.only(d).steps(Schedule(4, 1, "adapt", "importance")):
            some = replace(SPLITS[d].adapt, inputs=batch.inputs[0], labels=batch.labels[0])
            means.append({n: g.mean(0) for n, g in by_hand(row(weights, d), some).items()})
        assert len({len(b) for b in torch.arange(COUNTS[d] + 2).split(4)}) == 2  # one is short
        wanted = {
            n: torch.stack([m[n].abs() ** power for m in means]).mean(0) for n in row(found, d)
        }
        assert_close(row(found, d), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_signs_cancel_within_a_batch_and_never_between_images(kind):
    """Batches of one are samples; larger ones have less, by the triangle inequality."""
    weights, members = initials(make(), 3), cohort(make(), SPLITS)
    sample = importances(members, weights, kind=kind)
    alone = importances(members, weights, kind=kind, granularity="batch", batch_size=1)
    assert_close(alone, sample)
    whole = importances(members, weights, kind=kind, granularity="batch", batch_size=1000)
    assert all((whole[n] <= t + 1e-12).all() for n, t in sample.items())
    assert (whole["head.weight"] < 0.9 * sample["head.weight"]).any()


def test_mixed_signs_of_two_images_cancel_in_a_batch():
    """F = w x at x = 1 and x = -1 has 2 F x = 2 w twice; the bias has 2 w and -2 w."""
    one = split(2)
    ends = torch.tensor([1.0, -1.0], dtype=torch.float64).reshape(2, 1, 1, 1)
    members = cohort(linear(1), [one._replace(adapt=replace(one.train, inputs=ends))])
    w = torch.tensor([[3.0], [-1.0], [0.5]], dtype=torch.float64)
    weights = repeat({"head.weight": w, "head.bias": torch.zeros_like(w[:, 0])}, 1)
    apart = importances(members, weights)
    together = importances(members, weights, granularity="batch")
    assert_close(row(apart, 0), {"head.weight": 2 * w.abs(), "head.bias": 2 * w.abs()[:, 0]})
    assert_close(row(together, 0), {"head.weight": 2 * w.abs(), "head.bias": 0 * w[:, 0]})


@pytest.mark.parametrize("kind", ["mas", "fisher"])
def test_the_order_of_images_does_not_matter_per_sample(kind):
    weights = initials(conv(), 3)
    turned = [
        s._replace(adapt=replace(s.adapt, inputs=s.adapt.inputs.flip(0),
                                 labels=s.adapt.labels.flip(0)))
        for s in SPLITS
    ]  # fmt: skip
    found, other = (
        importances(cohort(conv(), some), weights, kind=kind) for some in (SPLITS, turned)
    )
    assert_close(other, found)


@pytest.mark.parametrize("granularity", ["sample", "batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_measuring_moves_neither_statistics_nor_modes(kind, granularity):
    """In training mode batch norm would move them, and find others."""
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    before = copied(weights)
    members.model.train()
    found = importances(members, weights, kind=kind, granularity=granularity)
    assert_same_bits(weights, before)
    assert members.model.training
    with training(members.model), evaluating(members.model):
        again = importances(members, weights, kind=kind, granularity=granularity)
    assert_same_bits(again, found)
    assert found.keys() == {n for n, _ in conv().named_parameters()}
    assert all((t >= 0).all() and t.any() for t in found.values())
    other = importances(members, weights | shifted(weights), kind=kind, granularity=granularity)
    assert not torch.isclose(other["head.weight"], found["head.weight"]).all()


@pytest.mark.parametrize("granularity", ["sample", "batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_client_is_measured_as_if_it_were_alone(kind, granularity):
    """One and the same model for all, a view without memory of its own, is the common case."""
    weights, members = repeat(row(initials(conv(), 1), 0), 3), cohort(conv(), SPLITS)
    given = {"kind": kind, "granularity": granularity, "batch_size": 4}
    everybody = importances(members, weights, **given)
    for d in range(3):
        alone = importances(members.only(d), {n: t[:1] for n, t in weights.items()}, **given)
        assert_same_bits(row(alone, 0), row(everybody, d))


@pytest.mark.parametrize(
    "exclude", [["head"], "head", ["head.weight", "head.bias"], ["head.bias"], ["body.3.weight"]]
)
def test_what_is_left_out_changes_nothing_for_the_others(exclude):
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    whole = importances(members, weights)
    found = importances(members, weights, exclude=exclude)
    layer = {n: n.rpartition(".")[0] for n in whole}
    assert found.keys() == {n for n in whole if n not in exclude and layer[n] not in exclude}
    assert_close(found, {n: whole[n] for n in found})


def test_a_layer_is_left_out_by_its_whole_name():
    """A part of a name is no name."""
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    left = importances(members, weights, exclude=["body.0.weight", "body.1"]).keys()
    assert left == {"body.3.weight", "body.3.bias", "body.4.weight", "body.4.bias",
                    "head.weight", "head.bias"}  # fmt: skip
    with pytest.raises(InputError, match="no 'hea'; did you mean 'head'"):
        importances(members, weights, exclude=["hea"])
    with pytest.raises(InputError, match="leaves no parameter"):
        importances(members, weights, exclude=["head", "body"])


def test_a_layer_is_not_left_out_because_its_name_begins_like_another_one():
    """``body.1`` is the beginning of ``body.10``."""
    deep = Network(nn.Sequential(nn.Flatten(), *(nn.Linear(16, 16) for _ in range(10))), 16, 3)
    members = cohort(deep, SPLITS[:1])
    left = importances(members, initials(deep, 1), exclude=["body.1", "head"]).keys()
    assert left == {f"body.{i}.{n}" for i in range(2, 11) for n in ("weight", "bias")}


def test_a_floor_is_added_to_every_entry():
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    given = {"kind": "true-fisher", "granularity": "batch"}
    found = importances(members, weights, **given)
    raised = importances(members, weights, **given, floor=1e-8)
    assert_close(raised, {n: t + 1e-8 for n, t in found.items()}, rtol=1e-12, atol=0)
