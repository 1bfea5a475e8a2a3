"""Scores by hand, and the same on every way to them."""

import math

import pytest
import torch
from toys import assert_same_bits, cohort, conv, copied, initial, initials, linear, split

from fedadapt.client import evaluation
from fedadapt.client.evaluation import evaluate
from fedadapt.datasets.benchmark import Examples
from fedadapt.weights import repeat

SPLITS = [split(4, test=count, seed=count) for count in (3, 11, 7)]
TESTS = [s.test for s in SPLITS]


def copies(weights, count):
    """The same model for each client, in memory of its own."""
    return {n: t.clone() for n, t in repeat(weights, count).items()}


def close(found, wanted):
    assert [s.accuracy for s in found] == [s.accuracy for s in wanted]
    assert [s.num_examples for s in found] == [s.num_examples for s in wanted]
    assert [s.loss for s in found] == pytest.approx([s.loss for s in wanted], rel=1e-12)


def test_by_hand():
    # Logits are the inputs themselves.
    inputs = torch.tensor([[2.0, 1, 0], [0, 3, 0], [0, 0, 1], [5, 0, 0]], dtype=torch.float64)
    test = Examples(inputs, torch.tensor([0, 1, 0, 0]))
    identity = {"head.weight": torch.eye(3).double(), "head.bias": torch.zeros(3).double()}
    members = cohort(linear(3), [split(1)._replace(test=test)])
    [score] = evaluate(members, repeat(identity, 1), [test])
    e = math.exp
    losses = [
        -math.log(e(2) / (e(2) + e(1) + 1)),
        -math.log(e(3) / (e(3) + 2)),
        -math.log(1 / (e(1) + 2)),
        -math.log(e(5) / (e(5) + 2)),
    ]
    assert score.accuracy == 0.75
    assert score.loss == pytest.approx(sum(losses) / 4, rel=1e-12)
    assert score.num_examples == 4


def test_one_model_for_all_goes_the_same_way_as_many():
    start = initial(conv())
    wanted = [evaluate(cohort(conv(), [s]), repeat(start, 1), [s.test])[0] for s in SPLITS]
    assert len({s.accuracy for s in wanted}) > 1
    close(evaluate(cohort(conv(), SPLITS), repeat(start, 3), TESTS), wanted)
    close(evaluate(cohort(conv(), SPLITS), copies(start, 3), TESTS), wanted)
    for execution in ("per-client", "stacked-kernels", "vmap"):
        close(evaluate(cohort(conv(), SPLITS, execution), copies(start, 3), TESTS), wanted)


@pytest.mark.parametrize("images_at_once", [1, 2, 512])
def test_stacked_is_one_by_one_however_many_images_at_once(monkeypatch, images_at_once):
    wanted = evaluate(cohort(conv(), SPLITS), initials(conv(), 3), TESTS)
    monkeypatch.setattr(evaluation, "NUMBERS_AT_ONCE", 16 * images_at_once)
    for execution in ("sequential", "per-client", "stacked-kernels", "vmap"):
        members = cohort(conv(), SPLITS, execution)
        close(evaluate(members, initials(conv(), 3), TESTS), wanted)


def test_the_global_test_is_the_same_for_each():
    together = TESTS[1]
    start = initial(conv())
    [wanted] = evaluate(cohort(conv(), SPLITS[:1]), repeat(start, 1), [together])
    close(evaluate(cohort(conv(), SPLITS), repeat(start, 3), [together] * 3), [wanted] * 3)
    close(evaluate(cohort(conv(), SPLITS), copies(start, 3), [together] * 3), [wanted] * 3)


@pytest.mark.parametrize("execution", ["sequential", "per-client", "stacked-kernels", "vmap"])
def test_each_client_is_scored_with_its_own_model_on_its_own_images(execution):
    weights = initials(conv(), 3)
    found = evaluate(cohort(conv(), SPLITS, execution), weights, TESTS)
    turned = evaluate(
        cohort(conv(), SPLITS[::-1], execution),
        {n: t.flip(0) for n, t in weights.items()},
        TESTS[::-1],
    )
    close(turned, found[::-1])


@pytest.mark.parametrize("execution", ["sequential", "per-client", "stacked-kernels", "vmap"])
def test_evaluation_changes_neither_weights_nor_the_training_mode(execution):
    weights = initials(conv(), 3)
    before = copied(weights)
    members = cohort(conv(), SPLITS, execution)
    members.model.train()
    evaluate(members, weights, TESTS)
    assert_same_bits(weights, before)
    assert all(m.training for m in members.model.modules())


def test_the_networks_statistics_are_used_and_not_the_tests():
    # An image's score is the same in whatever company it is tested.
    start = initial(conv())
    test = TESTS[1]
    together = evaluate(cohort(conv(), SPLITS[:1]), repeat(start, 1), [test])[0]
    singles = [
        evaluate(
            cohort(conv(), SPLITS[:1]),
            repeat(start, 1),
            [Examples(test.inputs[i : i + 1], test.labels[i : i + 1])],
        )[0]
        for i in range(len(test))
    ]
    assert together.accuracy == pytest.approx(sum(s.accuracy for s in singles) / len(test))
    assert together.loss == pytest.approx(sum(s.loss for s in singles) / len(test), rel=1e-12)


def test_a_diverged_model_has_no_finite_loss():
    weights = {
        n: t * math.nan if t.is_floating_point() else t for n, t in initials(conv(), 3).items()
    }
    assert all(math.isnan(s.loss) for s in evaluate(cohort(conv(), SPLITS), weights, TESTS))
