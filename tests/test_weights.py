"""Arithmetic on named tensors."""

import math

import pytest
import torch
from toys import assert_same_bits, conv, initial, initials

from fedadapt.weights import is_finite, num_bytes, repeat, row, rows, squared_distance, stack

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


def test_the_squared_distance_is_over_the_names_of_the_first():
    a = {"w": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
    b = {"w": torch.tensor([0.0, 4.0]), "b": torch.tensor(0.0), "c": torch.tensor(100.0)}
    assert squared_distance(a, b).item() == 1 + 4 + 9
    moving = torch.tensor([1.0, 2.0], requires_grad=True)
    squared_distance({"w": moving}, b).backward()
    assert moving.grad.tolist() == [2.0, -4.0]


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
