"""The Fisher information of EWC, against its closed form for softmax regression."""

from dataclasses import replace

import pytest
import torch
from importances import SPLITS, gradients, make, shifted
from toys import CLASSES, assert_close, assert_same_bits, cohort, conv, copied, initials

from fedadapt.client.cohort import Schedule
from fedadapt.client.statistics.importance import fisher
from fedadapt.models.mode import evaluating
from fedadapt.weights import row


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


def test_other_clients_in_the_cohort_do_not_change_a_clients_fisher():
    weights = initials(make(), 3)
    everybody = fisher(cohort(make(), SPLITS), weights, granularity="batch", batch_size=4)
    alone = fisher(
        cohort(make(), SPLITS).only(1),
        {n: t[1:2] for n, t in weights.items()},
        granularity="batch",
        batch_size=4,
    )
    assert_same_bits(alone, {n: t[1:2] for n, t in everybody.items()})
