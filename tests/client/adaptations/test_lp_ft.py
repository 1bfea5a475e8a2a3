"""LP-FT: the head first, then everything."""

import pytest
import torch
from toys import assert_same_bits, cohort, conv, initials, plain, split

from fedadapt.client.adaptations.fine_tune import FineTune
from fedadapt.client.adaptations.lp_ft import LpFt
from fedadapt.client.cohort import Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.models.mode import evaluating
from fedadapt.selectors import all_but, head, norm_statistics

SPLITS = [split(count, adapt=9, test=7, seed=count) for count in (5, 12, 10)]


def of(names, weights):
    return {n: weights[n] for n in names}


def test_the_defaults_are_ten_epochs_each_and_a_tenth_of_the_rate():
    method = LpFt()
    assert (method.epochs, method.head_lr, method.lr) == (10, 0.05, 0.005)


@pytest.mark.parametrize("model", [conv, plain])
def test_without_a_rate_for_the_head_it_is_fine_tuning(model):
    weights, members = initials(model(), 3), cohort(model(), SPLITS)
    found = LpFt(head_lr=0.0, lr=0.1, epochs=2, batch_size=4).adapt(members, weights)
    same = FineTune(name="lp-ft", lr=0.1, epochs=2, batch_size=4).adapt(members, weights)
    assert_same_bits(found, same)


@pytest.mark.parametrize("model", [conv, plain])
def test_without_a_rate_for_the_whole_it_tunes_the_head(model):
    """Batch norm's statistics follow the images in the second phase, as in all training."""
    weights, members = initials(model(), 3), cohort(model(), SPLITS)
    found = LpFt(head_lr=0.1, lr=0.0, epochs=2, batch_size=4).adapt(members, weights)
    probed = fit(
        members,
        weights,
        Sgd(0.1, 0.5),
        Schedule(4, 2, "train", "lp-ft/head"),
        trainable=head,
        mode=evaluating,
    ).weights
    held = weights.keys() - norm_statistics(model())
    assert_same_bits(of(held, found), of(held, probed))
    assert not torch.equal(found["head.weight"], weights["head.weight"])


def test_between_the_phases_the_body_is_what_it_was_its_buffers_too():
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    method = LpFt(head_lr=0.1, lr=0.1, epochs=3, batch_size=4)
    (epochs, probed), (end, tuned) = method.stages(members, weights)
    assert (epochs, end) == (3, 0)
    body = all_but(head)(conv())
    assert_same_bits(of(body, probed), of(body, weights))
    moved = {n for n in weights if not torch.equal(tuned[n], probed[n])}
    assert moved >= weights.keys() - {"body.3.bias"}  # before batch norm: no gradient
    assert_same_bits(method.adapt(members, weights), tuned)


def test_the_phases_share_no_velocity_and_draw_other_batches():
    weights, members = initials(plain(), 3), cohort(plain(), SPLITS)
    method = LpFt(head_lr=0.1, lr=0.05, momentum=0.9, epochs=2, batch_size=4)
    (_, probed), (_, tuned) = method.stages(members, weights)
    rested = fit(members, probed, Sgd(0.05, 0.9), Schedule(4, 2, "train", "lp-ft")).weights
    assert_same_bits(tuned, rested)
    same = {"trainable": "head", "lr": 0.1, "momentum": 0.9, "epochs": 2, "batch_size": 4}
    first, second = (
        FineTune(name=name, **same).adapt(members, weights)["head.weight"]
        for name in ("lp-ft/head", "lp-ft")
    )
    assert torch.equal(probed["head.weight"], first)
    assert not torch.equal(first, second)
