"""Arithmetic on named tensors."""

import math

import pytest
import torch
from toys import assert_same_bits, conv, initial, initials

from fedadapt.weights import (
    chosen,
    is_finite,
    is_shared,
    num_bytes,
    repeat,
    row,
    rows,
    side_by_side,
    stack,
)  # fmt: skip

MODELS = [initial(conv(), seed) for seed in range(3)]


def test_a_stack_has_a_row_for_each_model():
    stacked = stack(MODELS)
    assert list(stacked) == list(MODELS[0])
    for d, model in enumerate(MODELS):
        assert_same_bits(row(stacked, d), model)
    assert_same_bits(rows(stacked, 1, 3), stack(MODELS[1:3]))


def test_repeating_costs_no_memory_and_is_the_model_for_each():
    repeated = repeat(MODELS[0], 1000)
    for n, t in repeated.items():
        assert t.untyped_storage().data_ptr() == MODELS[0][n].untyped_storage().data_ptr()
    for d in (0, 999):
        assert_same_bits(row(repeated, d), MODELS[0])
    assert_same_bits(rows(repeated, 5, 8), stack(MODELS[:1] * 3))


def test_a_stack_is_shared_where_one_model_was_repeated_or_it_has_one_row():
    assert is_shared(repeat(MODELS[0], 3))
    assert is_shared(stack(MODELS[:1]))
    assert not is_shared(stack(MODELS[:1] * 3))  # equal numbers that lie apart
    assert not is_shared(repeat(MODELS[0], 3) | {"own": torch.zeros(3, 2)})
    assert is_shared(rows(repeat(MODELS[0], 9), 2, 5))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_bad_number_anywhere_is_not_finite(value):
    weights = initials(conv(), 2)
    assert is_finite(weights)
    assert is_finite({})
    weights["head.bias"][1, 2] = value
    assert not is_finite(weights)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_wherever_it_is_a_bad_number_is_found(value, dtype):
    for size in (1, 7, 64, 1000):
        for place in {0, size // 2, size - 1}:
            numbers = torch.ones(size, dtype=dtype)
            assert is_finite({"w": numbers})
            numbers[place] = value
            assert not is_finite({"w": numbers})


def test_no_numbers_and_whole_ones_are_finite():
    assert is_finite({"none": torch.zeros(3, 0), "count": torch.tensor(7), "one": torch.ones(())})


def test_bytes_are_those_that_would_travel():
    weights = {"w": torch.zeros(2, 3), "n": torch.zeros((), dtype=torch.int64)}
    assert num_bytes(weights) == 2 * 3 * 4 + 8
    assert num_bytes(repeat(weights, 5)) == 5 * num_bytes(weights)


def test_some_clients_of_a_stack_are_their_rows_and_all_of_them_no_copy():
    stacked = stack(MODELS)
    assert_same_bits(chosen(stacked, [0, 2]), stack([MODELS[0], MODELS[2]]))
    assert all(t is stacked[n] for n, t in chosen(stacked, [0, 1, 2]).items())


def test_a_matrix_is_side_by_side_in_its_order_alone():
    matrix = torch.arange(21.0).view(3, 7)
    parts = {"a": matrix[:, :4].view(3, 2, 2), "b": matrix[:, 4:5], "c": matrix[:, 5:]}
    found = side_by_side(parts)
    assert torch.equal(found, matrix)
    assert found.data_ptr() == matrix.data_ptr()
    assert torch.equal(side_by_side({"a": matrix}), matrix)
    some = {n: t[1:] for n, t in parts.items()}
    assert torch.equal(side_by_side(some), matrix[1:])
    apart = {
        "nothing": {},
        "another order": {n: parts[n] for n in "bac"},
        "a gap": {n: parts[n] for n in "ac"},
        "an end": {n: parts[n] for n in "ab"},
        "other memory": parts | {"c": parts["c"].clone()},
        "another type": parts | {"c": parts["c"].double()},
        "other rows": parts | {"c": parts["c"][:2]},
        "columns": parts | {"a": parts["a"].transpose(1, 2)},
        "numbers": {"loss": torch.tensor(1.0)},
        "one model for all": repeat(MODELS[0], 3),
    }
    assert {why: t for why, w in apart.items() if (t := side_by_side(w)) is not None} == {}
