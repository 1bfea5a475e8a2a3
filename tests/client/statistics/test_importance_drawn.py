"""Which importances look at labels; those that the model draws by itself: the true Fisher."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from importances import KINDS, SPLITS, make
from toys import CLASSES, assert_close, cohort, conv, examples, initials, linear, split

from fedadapt.client.statistics.importance import importances
from fedadapt.client.statistics.measures import MEASURES, drawn
from fedadapt.client.statistics.per_sample_gradients import layers_of, magnitudes
from fedadapt.weights import repeat, row


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
    model, weights = linear(4), row(initials(linear(4), 1), 0)
    x = examples(1, shape=(1, 2, 2)).inputs
    levels = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    members = cohort(model, [split(1)])
    total = magnitudes(
        members,
        weights,
        layers_of(model, weights) or (),
        x.expand(1000, 1, 2, 2),
        lambda logits: score(logits, torch.zeros(1000, dtype=torch.int64), levels),
        magnitude,
    )
    flat = x.flatten(1)
    p = F.softmax(flat @ weights["head.weight"].T + weights["head.bias"], dim=1)[0]
    wanted = (p * (1 - p))[:, None] * flat**2
    assert ((total["head.weight"] / 1000 - wanted).abs() <= 3e-3 * flat**2).all()


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
