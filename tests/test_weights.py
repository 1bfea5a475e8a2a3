"""Arithmetic on named tensors."""

import math

import pytest
import torch
from toys import assert_same_bits, conv, initial, initials

from fedadapt.weights import is_finite, is_shared, num_bytes, repeat, row, rows, stack

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


def test_bytes_are_those_that_would_travel():
    weights = {"w": torch.zeros(2, 3), "n": torch.zeros((), dtype=torch.int64)}
    assert num_bytes(weights) == 2 * 3 * 4 + 8
    assert num_bytes(repeat(weights, 5)) == 5 * num_bytes(weights)
