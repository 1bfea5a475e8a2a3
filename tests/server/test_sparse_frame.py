"""The fixed classifier of FedLoGe: its angles, its zeros, and the gradient that spreads it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from fedadapt.errors import InputError
from fedadapt.server.sparse_frame import _gradient, sparse_frame


def angles(frame: Tensor) -> Tensor:
    """In degrees, between all pairs of rows."""
    units = frame / frame.norm(dim=1, keepdim=True)
    apart = ~torch.eye(len(frame), dtype=torch.bool)
    return torch.rad2deg(torch.arccos((units @ units.T)[apart]))


def test_ten_classes_are_as_far_apart_as_they_can_be():
    frame = sparse_frame(10, 64, 0.6, 0.1, 1)
    found = angles(frame)
    assert found.mean().item() == pytest.approx(96.379, abs=0.001)  # arccos(-1 / 9)
    assert found.std().item() < 0.05
    torch.testing.assert_close(
        frame.norm(dim=1), torch.full((10,), 0.1).double(), atol=1e-3, rtol=0
    )


def test_so_many_numbers_are_zero_and_no_class_is_empty():
    assert (sparse_frame(10, 64, 0.6, 0.1, 1) == 0).sum() == 0.6 * 640
    scarce = sparse_frame(4, 5, 0.8, 0.1, 1)
    assert (scarce != 0).sum(1).tolist() == [1, 1, 1, 1]
    with pytest.raises(InputError, match=r"sparsity: 0\.9 leaves 2 numbers for 4 classes"):
        sparse_frame(4, 5, 0.9, 0.1, 1)


def test_it_is_a_function_of_the_seed():
    first, other = sparse_frame(3, 8, 0.6, 0.1, 1).clone(), sparse_frame(3, 8, 0.6, 0.1, 2)
    assert not torch.equal(first == 0, other == 0)
    sparse_frame.cache_clear()
    assert torch.equal(sparse_frame(3, 8, 0.6, 0.1, 1), first)


def test_the_gradient_is_that_of_the_lengths_and_the_smallest_angles():
    frame = np.random.default_rng(0).normal(size=(5, 7))
    rows = torch.from_numpy(frame).requires_grad_()
    lengths = rows.norm(dim=1)
    cosines = (rows @ rows.T) / lengths.outer(lengths)
    nearest = cosines.masked_fill(torch.eye(5, dtype=torch.bool), -2).max(1).values
    (((lengths - 0.7) ** 2).sum() - nearest.arccos().mean()).backward()
    np.testing.assert_allclose(_gradient(frame, 0.7), rows.grad.numpy(), rtol=1e-10)
