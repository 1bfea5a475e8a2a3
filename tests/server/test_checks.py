import math

import pytest
import torch

from fedadapt.messages import Answers, Failure, Update
from fedadapt.server.aggregation import StreamingMean
from fedadapt.server.checks import MAX_MAGNITUDE, Expected, accept, validation_errors
from fedadapt.weights import repeat, row, rows

SENT = {
    "w": torch.linspace(-1, 1, 20).reshape(4, 5),
    "b": torch.zeros(4, dtype=torch.float64),
    "count": torch.tensor(3),
}
EXPECTED = Expected.of(SENT)
NAN, INF = math.nan, math.inf


def answers(clients=(2, 5, 7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    num_clients = len(clients)
    return Answers(
        clients=tuple(clients),
        update=Update(
            weights={
                "w": torch.randn(num_clients, 4, 5, generator=generator),
                "b": torch.randn(num_clients, 4, generator=generator, dtype=torch.float64),
                "count": torch.full((num_clients,), 9),
            },
            num_examples=torch.tensor([10.0 + d for d in clients], dtype=torch.float64),
            metrics={"loss": torch.rand(num_clients, generator=generator)},
            report={"sparsity": torch.rand(num_clients, 6, generator=generator)},
            states={"personal": {"w": torch.randn(num_clients, 4, 5, generator=generator)}},
        ),
        bytes_up=dict.fromkeys(clients, 100),
        seconds=dict.fromkeys(clients, 1.0),
    )


def mean(*stream):
    total = StreamingMean()
    for some in stream:
        if some.update is not None:
            total.add(some.update.weights, some.update.num_examples)
    return total.result()


def assert_same_bits(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype
        assert torch.equal(found[name], wanted[name])


def corrupt_reply(tensors, name, value):
    """The first value of the only row becomes ``value``."""
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[0] = value


def weight(value):
    def change(update):
        return Update(update.weights, value, update.metrics)

    return change


def array(name, value):
    def change(update):
        update.weights[name] = value
        return update

    return change


def without(name):
    def change(update):
        del update.weights[name]
        return update

    return change


def value(part, name, number):
    def change(update):
        corrupt_reply(getattr(update, part), name, number)
        return update

    return change


def double(number):
    return torch.tensor([number], dtype=torch.float64)


CASES = {
    "NaN": (value("weights", "w", NAN), "array 'w'"),
    "infinity": (value("weights", "w", INF), "array 'w'"),
    "minus infinity in float64": (value("weights", "b", -INF), "array 'b'"),
    "shape (1,)": (array("w", torch.ones(1, 1)), "array 'w'"),
    "shape ()": (array("w", torch.ones(1)), "array 'w'"),
    "shape (5,)": (array("w", torch.ones(1, 5)), "array 'w'"),
    "shape transposed": (array("w", torch.ones(1, 5, 4)), "array 'w'"),
    "more axes": (array("w", torch.ones(1, 1, 4, 5)), "array 'w'"),
    "empty": (array("w", torch.ones(1, 0, 5)), "array 'w'"),
    "no client axis": (array("w", torch.ones(4, 5)), "array 'w'"),
    "float64": (array("w", torch.ones(1, 4, 5, dtype=torch.float64)), "array 'w'"),
    "float16": (array("w", torch.ones(1, 4, 5, dtype=torch.float16)), "array 'w'"),
    "int64": (array("w", torch.ones(1, 4, 5, dtype=torch.int64)), "array 'w'"),
    "bool": (array("w", torch.ones(1, 4, 5, dtype=torch.bool)), "array 'w'"),
    "counter as float": (array("count", torch.ones(1)), "array 'count'"),
    "missing array": (without("b"), "missing 'b'"),
    "unexpected array": (array("x", torch.ones(1)), "unexpected 'x'"),
    "weight 0": (weight(double(0.0)), "num-examples: 0"),
    "weight negative": (weight(double(-5.0)), "num-examples: -5"),
    "weight NaN": (weight(double(NAN)), "num-examples: nan"),
    "weight infinite": (weight(double(INF)), "num-examples: inf"),
    "weight huge": (weight(double(1e18)), "num-examples: 1e+18"),
    "weight bool": (weight(torch.tensor([True])), "num-examples: dtype bool"),
    "weight list": (weight(torch.ones(1, 3, dtype=torch.float64)), "num-examples: shape"),
    "loss NaN": (value("metrics", "loss", NAN), "metric 'loss'"),
    "loss infinite": (value("metrics", "loss", INF), "metric 'loss'"),
    "report NaN": (value("report", "sparsity", NAN), "report 'sparsity'"),
}


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("case", CASES)
def test_the_mean_of_the_rest_is_that_of_a_round_without_the_bad_client(case, first):
    change, reason = CASES[case]
    good, alone = answers(), answers([1 if first else 9], seed=1)
    bad = Answers(alone.clients, change(alone.update))
    stream = [bad, good] if first else [good, bad]
    checked = [accept(a, validation_errors(a, EXPECTED, None)) for a in stream]
    assert_same_bits(mean(*checked), mean(good))
    rejected = checked[stream.index(bad)]
    assert rejected.update is None
    assert rejected.clients == ()
    [failure] = rejected.failures.values()
    assert failure.outcome == "rejected"
    assert reason in failure.reason
    assert "\n" not in failure.reason


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("part", ["weights", "metrics", "report", "num_examples"])
def test_one_bad_row_of_a_stack_leaves_the_others_untouched(part, position):
    good, bad = answers(), answers()
    if part == "num_examples":
        bad.update.num_examples[position] = NAN
    else:
        for tensor in getattr(bad.update, part).values():
            if tensor.is_floating_point():
                tensor[position] = NAN
    found = validation_errors(bad, EXPECTED, None)
    assert list(found) == [bad.clients[position]]
    checked = accept(bad, found)
    left = [d for d in good.clients if d != bad.clients[position]]
    assert list(checked.clients) == left
    others = [
        Answers(
            (d,), Update(rows(good.update.weights, i, i + 1), good.update.num_examples[i : i + 1])
        )
        for i, d in enumerate(good.clients)
        if i != position
    ]
    assert_same_bits(mean(checked), mean(*others))
    states = good.update.states["personal"]["w"]
    assert torch.equal(
        checked.update.states["personal"]["w"],
        torch.stack([states[i] for i in range(3) if i != position]),
    )
    assert checked.bytes_up == bad.bytes_up  # what was rejected has travelled all the same


def test_good_answers_pass_as_they_are():
    good = answers()
    found = validation_errors(good, EXPECTED, None)
    assert found == {}
    assert accept(good, found) is good


def test_no_answer_is_no_validation_error():
    nobody = Answers((), None, {3: Failure("late", "")})
    assert validation_errors(nobody, EXPECTED, None) == {}


def test_failures_from_before_stay():
    bad = answers()
    bad.update.weights["w"][:] = NAN
    before = Answers(bad.clients, bad.update, {1: Failure("late", "no answer in time")})
    checked = accept(before, validation_errors(before, EXPECTED, None))
    assert {d: f.outcome for d, f in checked.failures.items()} == {
        1: "late",
        2: "rejected",
        5: "rejected",
        7: "rejected",
    }


def test_the_reason_counts_the_bad_values():
    bad = answers()
    bad.update.weights["w"][1, 2, 3] = NAN
    assert validation_errors(bad, EXPECTED, None) == {
        5: "array 'w': 1 of 20 values NaN or infinite, expected finite"
    }


@pytest.mark.parametrize("value", [3e38, -3e38])
def test_a_finite_value_that_would_overflow_everything_is_that_client_s_fault(value):
    """In whichever part of its answer; and values as large as any network's are none."""
    large = answers()
    large.update.weights["w"][:] = MAX_MAGNITUDE
    assert validation_errors(large, EXPECTED, None) == {}
    large.update.weights["w"][1, 2, 3] = value
    assert validation_errors(large, EXPECTED, None) == {
        5: "array 'w': 1 of 20 values beyond 1e+12, expected smaller"
    }
    metric = answers()
    metric.update.metrics["loss"][1] = value
    assert list(validation_errors(metric, EXPECTED, None)) == [5]


@pytest.mark.parametrize("value", [NAN, INF, -INF, 2 * MAX_MAGNITUDE, -2 * MAX_MAGNITUDE])
def test_a_fault_is_found_in_stacks_that_lie_side_by_side(value):
    matrix = torch.ones(3, 9)
    weights = {"w": matrix[:, :6].view(3, 2, 3), "b": matrix[:, 6:]}
    expected = Expected.of(row(weights, 0))
    given = Answers((2, 5, 7), Update(weights, torch.ones(3, dtype=torch.float64)))
    assert validation_errors(given, expected, None) == {}
    matrix[1, 8] = value
    [(client, why)] = validation_errors(given, expected, None).items()
    assert client == 5
    assert why.startswith("array 'b': 1 of 3 values")


def test_infinities_that_cancel_are_found():
    bad = answers()
    bad.update.weights["w"][0, 0, :2] = torch.tensor([INF, -INF])
    assert list(validation_errors(bad, EXPECTED, None)) == [2]


def test_a_change_longer_than_the_bound_is_rejected_and_one_as_long_is_not():
    some = answers()
    sent = repeat(SENT, 3)
    some.update.weights["w"] = sent["w"] + torch.tensor([0.0, 3.0, 4.0]).reshape(3, 1, 1) * (
        torch.eye(4, 5) * torch.tensor([1.0, 0, 0, 0])[:, None]
    )
    some.update.weights["b"] = sent["b"] + torch.tensor([0.0, 4.0, 4.0]).reshape(
        3, 1
    ) * torch.tensor([1.0, 0, 0, 0])
    assert validation_errors(some, EXPECTED, sent) == {}
    found = validation_errors(some, EXPECTED, sent, max_norm=5.0)  # norms 0, 5 and sqrt(32)
    assert found == {7: "arrays: L2 norm 5.65685 of the update, at most 5"}


def test_counters_are_no_part_of_the_norm():
    some = answers()
    sent = repeat(SENT, 3)
    some.update.weights.update(w=sent["w"].clone(), b=sent["b"].clone(), count=sent["count"] + 1000)
    assert validation_errors(some, EXPECTED, sent, max_norm=1e-9) == {}


def test_the_bound_refuses_rows_that_would_broadcast():
    with pytest.raises(ValueError, match="a row for each client"):
        validation_errors(answers(), EXPECTED, repeat(SENT, 1), max_norm=1.0)


def test_the_spec_of_a_model_is_that_of_a_row_of_its_stack():
    assert Expected.of(row(repeat(SENT, 3), 2)) == EXPECTED


def test_names_from_outside_are_shortened():
    many = {f"{i}{'x' * 1000}": torch.ones(3) for i in range(50)}
    bad = answers()
    bad.update.weights.update(many)
    reason = validation_errors(bad, EXPECTED, None)[2]
    assert "and 47 more" in reason
    assert len(reason) < 300
