"""MAS and the Fisher information, against their closed forms for softmax regression."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad
from toys import (
    CLASSES,
    assert_close,
    assert_same_bits,
    cohort,
    conv,
    copied,
    examples,
    initials,
    linear,
    split,
)

from fedadapt.client import precisions
from fedadapt.client.cohort import Schedule
from fedadapt.client.precisions import IMAGES_AT_ONCE, MEASURES, drawn, fisher, importances
from fedadapt.errors import InputError
from fedadapt.models.mode import evaluating, training
from fedadapt.models.network import Network
from fedadapt.weights import repeat, row

COUNTS = (5, 2 * IMAGES_AT_ONCE + 1, 9)
SPLITS = [split(count, adapt=count + 2, seed=count) for count in COUNTS]
KINDS = ["mas", "fisher", "true-fisher"]


def make():
    return linear(16)


def gradients(weights, examples):
    """Of -log p(y | x) of each image, by hand: (p - y) x^T and p - y."""
    x = examples.inputs.flatten(1)
    p = F.softmax(x @ weights["head.weight"].T + weights["head.bias"], dim=1)
    gap = p - F.one_hot(examples.labels, CLASSES)
    return {"head.weight": gap[:, :, None] * x[:, None, :], "head.bias": gap}


@pytest.mark.parametrize("part", ["train", "adapt"])
@pytest.mark.parametrize("stacked", [False, True])
def test_per_sample_it_is_the_mean_of_squares(part, stacked):
    weights = initials(make(), 3)
    found = fisher(cohort(make(), SPLITS, stacked=stacked), weights, part=part)
    for d, own in enumerate(SPLITS):
        g = gradients(row(weights, d), getattr(own, part))
        assert_close(row(found, d), {n: (t**2).mean(0) for n, t in g.items()})


def test_per_batch_it_is_the_mean_of_squared_means():
    weights, members = initials(make(), 3), cohort(make(), SPLITS)
    found = fisher(members, weights, granularity="batch", batch_size=4)
    for d in range(3):
        wanted, count = {n: torch.zeros_like(t) for n, t in row(found, d).items()}, 0
        for [(_, batch)] in members.only(d).steps(Schedule(4, purpose="fisher")):
            part = replace(SPLITS[d].train, inputs=batch.inputs[0], labels=batch.labels[0])
            for n, g in gradients(row(weights, d), part).items():
                wanted[n] += len(part) * g.mean(0) ** 2
            count += len(part)
        assert count == len(SPLITS[d].train)
        assert_close(row(found, d), {n: t / count for n, t in wanted.items()})


def test_the_two_agree_for_batches_of_one_and_for_no_others():
    weights, members = initials(make(), 3), cohort(make(), SPLITS)
    sample = fisher(members, weights)
    assert_close(fisher(members, weights, granularity="batch", batch_size=1), sample)
    assert_same_bits(fisher(members, weights, batch_size=7), sample)
    coarse = fisher(members, weights, granularity="batch", batch_size=8)["head.weight"]
    assert (coarse.sum((1, 2)) < 0.6 * sample["head.weight"].sum((1, 2))).all()


@pytest.mark.parametrize("granularity", ["sample", "batch"])
def test_it_is_about_the_true_labels(granularity):
    weights = initials(make(), 3)
    permuted = [
        s._replace(train=replace(s.train, labels=(s.train.labels + 1) % CLASSES)) for s in SPLITS
    ]
    given, other = (
        fisher(cohort(make(), some), weights, granularity=granularity)["head.weight"]
        for some in (SPLITS, permuted)
    )
    assert not torch.isclose(given, other).any(dim=0).all()


@pytest.mark.parametrize("granularity", ["sample", "batch"])
def test_batch_norm_uses_what_it_has_and_nothing_is_moved(granularity):
    weights = initials(conv(), 3)
    before = copied(weights)
    members = cohort(conv(), SPLITS)
    members.model.train()
    found = fisher(members, weights, granularity=granularity)
    assert_same_bits(weights, before)
    assert members.model.training
    assert found.keys() == {n for n, _ in conv().named_parameters()}
    assert all((t >= 0).all() and t.any() for t in found.values())
    with evaluating(members.model):
        assert_same_bits(fisher(members, weights, granularity=granularity), found)
    other = fisher(members, initials(conv(), 3) | shifted(weights), granularity=granularity)
    assert not torch.isclose(other["head.weight"], found["head.weight"]).all()


def shifted(weights):
    return {n: t + 1 for n, t in weights.items() if n.endswith("running_mean")}


def test_who_else_is_there_changes_nothing():
    weights = initials(make(), 3)
    everybody = fisher(cohort(make(), SPLITS), weights, granularity="batch", batch_size=4)
    alone = fisher(
        cohort(make(), SPLITS).only(1),
        {n: t[1:2] for n, t in weights.items()},
        granularity="batch",
        batch_size=4,
    )
    assert_same_bits(alone, {n: t[1:2] for n, t in everybody.items()})


# The importances of DUA


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


@pytest.mark.parametrize("granularity", ["sample", "batch"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_empirical_fisher_looks_at_labels(kind, granularity):
    weights = initials(conv(), 3)
    permuted = [
        s._replace(adapt=replace(s.adapt, labels=(s.adapt.labels + 1) % CLASSES)) for s in SPLITS
    ]
    given, other = (
        importances(cohort(conv(), some), weights, kind=kind, granularity=granularity)
        for some in (SPLITS, permuted)
    )
    same = [torch.equal(other[n], t) for n, t in given.items()]
    assert all(same) if kind != "fisher" else not any(same)


def test_the_true_fisher_is_expected_over_what_the_model_predicts():
    """Of softmax regression: E[(p - y)^2] x^2 = p (1 - p) x^2, class by class."""
    weights = repeat(linear_at := {n: 0.5 * t for n, t in row(initials(make(), 1), 0).items()}, 1)
    few = split(4).adapt
    many = replace(few, inputs=few.inputs.repeat(4000, 1, 1, 1), labels=few.labels.repeat(4000))
    one = split(1)._replace(adapt=many)
    found = row(importances(cohort(make(), [one]), weights, kind="true-fisher"), 0)
    x = few.inputs.flatten(1)
    p = F.softmax(x @ linear_at["head.weight"].T + linear_at["head.bias"], dim=1)
    spread = p * (1 - p)
    wanted = {"head.weight": (spread[:, :, None] * x[:, None, :] ** 2).mean(0),
              "head.bias": spread.mean(0)}  # fmt: skip
    assert_close(found, wanted, rtol=0.05, atol=0.01)
    other = row(importances(cohort(make(), [one]), weights, kind="fisher"), 0)
    assert not torch.allclose(other["head.bias"], wanted["head.bias"], rtol=0.05, atol=0.01)


def test_labels_are_drawn_with_the_probabilities_of_the_softmax():
    logits = torch.tensor([0.0, 0.25, 0.75, 0.0], dtype=torch.float64).log().expand(5, 4)
    levels = torch.tensor([0.0, 0.2499, 0.25, 0.5, 1 - 1e-9], dtype=torch.float64)
    assert drawn(logits, levels).tolist() == [1, 1, 2, 2, 2]
    assert drawn(torch.zeros(3, 3), torch.ones(3, dtype=torch.float64)).tolist() == [2, 2, 2]


def test_a_class_is_drawn_for_the_largest_level_there_is_however_sums_round():
    logits = torch.randn(2000, 7, generator=torch.Generator().manual_seed(0))
    levels = torch.full((2000,), 1 - 2**-53, dtype=torch.float64)
    assert (drawn(logits, levels) == 6).all()


def test_over_all_levels_the_true_fisher_is_its_expectation():
    """Of softmax regression, p (1 - p) x^2: with 1000 equidistant levels to 3 / 1000 of x^2."""
    score, magnitude = MEASURES["true-fisher"]
    random = torch.Generator().manual_seed(1)
    w, x = torch.randn(2, CLASSES, 4, generator=random, dtype=torch.float64)
    x, levels = x[:1], (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000

    def gradient(images, labels, u):
        return grad(lambda p: score(images @ p["w"].T, labels, u))({"w": w})

    ignored = torch.zeros(1000, dtype=torch.int64)
    total, count = precisions.samples(gradient, magnitude, x.expand(1000, 4), ignored, levels)
    p = F.softmax(x @ w.T, dim=1)[0]
    wanted = (p * (1 - p))[:, None] * x**2
    assert ((total["w"] / count - wanted).abs() <= 3e-3 * x**2).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_how_many_images_are_computed_at_once_does_not_show(kind, at_once, monkeypatch):
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    whole = importances(members, weights, kind=kind)
    monkeypatch.setattr(precisions, "IMAGES_AT_ONCE", at_once)
    assert_close(importances(members, weights, kind=kind, batch_size=7), whole)


@pytest.mark.parametrize(("budget", "most"), [(1, 1), (8 * 51 * 10, 11), (2**40, IMAGES_AT_ONCE)])
def test_the_gradients_held_at_a_time_fit_their_budget(budget, most, monkeypatch):
    """51 parameters of 8 bytes; a last image alone joins the others."""
    sizes = []

    def watched(gradient, magnitude, x, y, levels):
        sizes.append(len(x))
        return samples(gradient, magnitude, x, y, levels)

    samples = precisions.samples
    monkeypatch.setattr(precisions, "samples", watched)
    monkeypatch.setattr(precisions, "GRADIENT_BYTES", budget)
    importances(cohort(make(), SPLITS), initials(make(), 3))
    assert max(sizes) <= most
    assert sum(sizes) == sum(COUNTS) + 6


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
def test_each_device_is_measured_as_if_it_were_alone(kind, granularity):
    """One and the same model for all, a view without memory of its own, is the common case."""
    weights, members = repeat(row(initials(conv(), 1), 0), 3), cohort(conv(), SPLITS)
    given = {"kind": kind, "granularity": granularity, "batch_size": 4}
    everybody = importances(members, weights, **given)
    for d in range(3):
        alone = importances(members.only(d), {n: t[:1] for n, t in weights.items()}, **given)
        assert_same_bits(row(alone, 0), row(everybody, d))


@pytest.mark.parametrize("exclude", [["head"], "head", ["head.weight", "head.bias"]])
def test_what_is_left_out_changes_nothing_for_the_others(exclude):
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    whole = importances(members, weights)
    found = importances(members, weights, exclude=exclude)
    assert found.keys() == {n for n in whole if not n.startswith("head.")}
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


# Against plain autograd: colour images, batch norm, any kind


def colourful():
    """Convolutions of three channels, which a device alone computes channels last."""
    body = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 2, 3),
        nn.Flatten(),
    )
    return Network(body, 8, CLASSES)


SCORES = {
    "mas": lambda logits, labels: (logits**2).sum(1).mean(),
    "fisher": lambda logits, labels: F.cross_entropy(logits, labels),
}


def by_autograd(weights, images, kind, size):
    """What ``backward`` finds for portions of ``size`` images in evaluation mode, their mean."""
    model = colourful().double().eval()
    model.load_state_dict(weights)
    found = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    parts = range(0, len(images), size)
    for first in parts:
        x, y = images.inputs[first : first + size], images.labels[first : first + size]
        model.zero_grad()
        SCORES[kind](model(x), y).backward()
        for n, p in model.named_parameters():
            found[n] += p.grad.abs() ** (1 if kind == "mas" else 2) / len(parts)
    return found


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("granularity", ["sample", "batch"])
@pytest.mark.parametrize("kind", SCORES)
def test_it_is_what_autograd_finds_in_evaluation_mode(kind, granularity, stacked):
    """One batch of all images, or each by itself, in a network that was in training mode."""
    rgb = [split(3, adapt=n, seed=n, make=partial(examples, shape=(3, 4, 4))) for n in (9, 1)]
    weights, members = initials(colourful(), 2), cohort(colourful(), rgb, stacked=stacked)
    members.model.train()
    given = {"kind": kind, "granularity": granularity, "batch_size": 20}
    found = importances(members, weights, **given)
    assert {t.dtype for t in found.values()} == {torch.float64}
    for d, own in enumerate(rgb):
        size = 1 if granularity == "sample" else 20
        assert_close(row(found, d), by_autograd(row(weights, d), own.adapt, kind, size))


@pytest.mark.parametrize("kind", KINDS)
def test_of_one_image_sample_and_batch_are_the_same(kind):
    one = [split(3, adapt=1, make=partial(examples, shape=(3, 4, 4)))]
    weights, members = initials(colourful(), 1), cohort(colourful(), one)
    sample, batch = (
        importances(members, weights, kind=kind, granularity=g) for g in ("sample", "batch")
    )
    assert_close(batch, sample)


def test_each_image_has_a_draw_of_its_own():
    """Of equal images classes are found about as often as the model predicts them."""
    alike = split(1).adapt
    many = replace(alike, inputs=alike.inputs[:1].expand(400, 1, 4, 4), labels=torch.zeros(400))
    members = cohort(make(), [split(1)._replace(adapt=many)])
    zero = {n: torch.zeros_like(t) for n, t in initials(make(), 1).items()}
    bias = importances(members, zero, kind="true-fisher")["head.bias"][0]
    # (1/3)^2, or (2/3)^2 for the class that is drawn: f 4/9 + (1 - f) / 9 of a frequency f.
    frequencies = 3 * bias - 1 / 3
    assert frequencies.sum().item() == pytest.approx(1)
    assert ((frequencies - 1 / 3).abs() < 0.1).all()
