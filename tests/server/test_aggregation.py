"""The weighted mean, whoever is added with whom."""

import math

import pytest
import torch
from toys import assert_close, assert_same_bits, conv, copied, initial, initials

from fedadapt.server import aggregation
from fedadapt.server.aggregation import StreamingMean, weighted_mean
from fedadapt.weights import row, rows

BY = torch.tensor([3.0, 50.0, 1.0, 7.0, 12.0], dtype=torch.float64)


def single(weights):
    """As networks have them: float32."""
    return {n: t.float() if t.is_floating_point() else t for n, t in weights.items()}


def mean(weights, by, *chunks):
    total, first = StreamingMean(), 0
    for size in chunks:
        total.add(rows(weights, first, first + size), by[first : first + size])
        first += size
    return total.result()


def test_it_is_the_mean_weighted_by_examples_and_not_the_plain_one():
    weights = initials(conv(), 5)
    found = mean(weights, BY, 5)
    for n, t in found.items():
        shares = BY.view(-1, *[1] * (t.ndim)) / BY.sum()
        torch.testing.assert_close(t, (weights[n] * shares).sum(0))
        assert not torch.isclose(t, weights[n].mean(0)).all()


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1), (2, 3), (3, 2), (4, 1)])
def test_the_mean_is_the_same_bits_however_clients_are_split_into_cohorts(chunks):
    weights = single(initials(conv(), 5))
    assert_same_bits(mean(weights, BY, *chunks), mean(weights, BY, 5))


def lying_side_by_side(weights):
    """The same numbers, the floating-point ones client by client in one memory."""
    floats = {n: t for n, t in weights.items() if t.is_floating_point()}
    matrix = torch.cat([t.flatten(1) for t in floats.values()], 1)
    parts = matrix.split([t[0].numel() for t in floats.values()], 1)
    named = zip(floats.items(), parts, strict=True)
    return weights | {n: part.view(t.shape) for (n, t), part in named}


@pytest.mark.parametrize("chunks", [(5,), (2, 3)])
def test_stacks_that_lie_side_by_side_have_the_same_mean_to_the_bit(chunks):
    weights = single(initials(conv(), 5))
    assert_same_bits(mean(lying_side_by_side(weights), BY, *chunks), mean(weights, BY, 5))


def test_cohorts_that_lie_in_different_ways_have_the_same_mean_to_the_bit():
    weights = single(initials(conv(), 5))
    for layouts in ((dict, lying_side_by_side), (lying_side_by_side, dict)):
        total = StreamingMean()
        for (first, last), lay in zip(((0, 2), (2, 5)), layouts, strict=True):
            total.add(lay(rows(weights, first, last)), BY[first:last])
        assert_same_bits(total.result(), mean(weights, BY, 5))
    backwards = dict(reversed(lying_side_by_side(rows(weights, 2, 5)).items()))
    total = StreamingMean()
    total.add(rows(weights, 0, 2), BY[:2])
    total.add(backwards, BY[2:])
    assert_same_bits({n: total.result()[n] for n in mean(weights, BY, 5)}, mean(weights, BY, 5))


@pytest.mark.parametrize("columns", [1, 2, 3, 7])
def test_the_mean_is_the_same_bits_however_many_columns_are_added_at_a_time(columns, monkeypatch):
    weights = single(initials(conv(), 5))
    wanted = mean(weights, BY, 5)
    monkeypatch.setattr(aggregation, "COLUMNS", columns)
    assert_same_bits(mean(weights, BY, 2, 3), wanted)
    assert_same_bits(mean(lying_side_by_side(weights), BY, 2, 3), wanted)


def test_integers_have_no_mean():
    weights = initials(conv(), 5)
    counters = {n for n in weights if n.endswith("num_batches_tracked")}
    assert counters
    assert mean(weights, BY, 5).keys() == weights.keys() - counters


def test_sums_are_of_more_digits_than_the_tensors():
    # In float32, ten thousand times 0.1 added one by one is off in the fourth digit.
    many = {"w": torch.full((10_000, 1), 0.1)}
    found = mean(many, torch.ones(10_000, dtype=torch.float64), 10_000)
    assert found["w"].dtype == torch.float32
    assert found["w"].item() == torch.tensor(0.1).item()


def test_one_model_is_its_own_mean_and_arguments_stay():
    weights = single(initials(conv(), 5))
    before = copied(weights)
    found = mean(rows(weights, 2, 3), BY[2:3], 1)
    assert_same_bits(weights, before)
    assert_same_bits(found, {n: row(weights, 2)[n] for n in found})


@pytest.mark.parametrize("by", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_that_is_none_is_refused(by):
    with pytest.raises(ValueError, match="row 1: weight"):
        mean(initials(conv(), 2), torch.tensor([1.0, by]), 2)


def test_the_mean_of_no_models_is_refused():
    assert StreamingMean().empty
    with pytest.raises(ValueError, match="no models"):
        StreamingMean().result()


def test_the_mean_of_state_dicts_is_a_state_dict():
    networks = [conv() for _ in range(3)]
    for seed, network in enumerate(networks):
        network.load_state_dict(single(initial(conv(), seed)))
        network.get_buffer("body.1.num_batches_tracked").fill_(seed + 4)
    states = [network.state_dict() for network in networks]
    before = [copied(state) for state in states]
    found = weighted_mean(states, [3, 50, 1])
    for state, copy in zip(states, before, strict=True):
        assert_same_bits(state, copy)
    assert list(found) == list(states[0])
    assert found["body.1.num_batches_tracked"].item() == 4
    wanted = mean({n: torch.stack([s[n] for s in states]) for n in states[0]}, BY[:3], 3)
    assert_same_bits({n: found[n] for n in wanted}, wanted)
    networks[0].load_state_dict(found)


def test_a_state_dict_is_not_aliased():
    state = initial(conv())
    found = weighted_mean([state], [1])
    assert_close(found, state)
    found["body.1.num_batches_tracked"].add_(1)
    assert state["body.1.num_batches_tracked"].item() == 3


@pytest.mark.parametrize(
    ("states", "by", "reason"),
    [
        ([], [], "0 states"),
        ([{"w": torch.ones(2)}], [1, 2], "1 states and 2 weights"),
        ([{"w": torch.ones(2)}, {"w": torch.ones(1)}], [1, 2], "differ in names or shapes"),
        ([{"w": torch.ones(2)}, {"v": torch.ones(2)}], [1, 2], "differ in names or shapes"),
        ([{"w": torch.ones(2)}], [0], "weight 0.0"),
    ],
)
def test_what_has_no_mean_is_refused(states, by, reason):
    with pytest.raises(ValueError, match=reason):
        weighted_mean(states, by)
