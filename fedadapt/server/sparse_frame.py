"""A fixed classifier whose classes are equally far apart and use few features each: SSE-C.

Xiao et al. 2024, "FedLoGe: Joint local and generic federated learning under long-tailed data".
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedadapt.errors import InputError
from fedadapt.random_streams import stream

STEPS, RATE = 10_000, 1e-4  # of Adam, as in the authors' code
LARGEST_COSINE = 0.99999


@cache
def sparse_frame(
    num_classes: int, num_features: int, sparsity: float, norm: float, seed: int
) -> Tensor:
    """Return rows of length ``norm``, as far from one another as they can be, [C, F] in float64.

    From a simplex equiangular tight frame, whose rows have cosines of -1 / (C - 1), all but a
    random share of the numbers are set to 0; the others then minimise, by Adam,
    sum_c (|s_c| - norm)^2 - mean_c min_c' angle(s_c, s_c').

    Raises:
        InputError: So few numbers would be left that a class would have none.

    """
    total = num_classes * num_features
    left = total - round(sparsity * total)
    if left < num_classes:
        raise InputError(
            f"sparsity: {sparsity:g} leaves {left} numbers for {num_classes} classes of "
            f"{num_features} features; lower it"
        )
    random = stream(seed, "sparse frame")
    orthonormal = np.linalg.qr(random.random((num_features, num_classes)))[0].T
    frame = np.sqrt(num_classes / (num_classes - 1)) * (orthonormal - orthonormal.mean(0))
    kept = np.zeros(total, dtype=bool)  # one number of each class, and others
    first_of_class = np.arange(num_classes) * num_features
    kept[first_of_class + random.integers(num_features, size=num_classes)] = True
    kept[random.permutation(np.flatnonzero(~kept))[: left - num_classes]] = True
    mask = kept.reshape(num_classes, num_features)
    frame = np.where(mask, frame, 0)
    first, second = np.zeros_like(frame), np.zeros_like(frame)
    for step in range(1, STEPS + 1):
        gradient = np.where(mask, _gradient(frame, norm), 0)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        change = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        frame -= RATE * change
    return torch.from_numpy(frame)


def _gradient(frame: NDArray[np.float64], norm: float) -> NDArray[np.float64]:
    """Of sum_c (|s_c| - norm)^2 - mean_c arccos(max_c' cos(s_c, s_c')), by the rows s_c."""
    lengths = np.linalg.norm(frame, axis=1, keepdims=True)
    units = frame / lengths
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    rows, nearest = np.arange(len(frame)), cosines.argmax(1)
    cosine = cosines[rows, nearest]
    slope = np.zeros_like(cosines)  # by the cosines; an angle at the clamp does not move
    free = np.abs(cosine) < LARGEST_COSINE
    slope[rows[free], nearest[free]] = 1 / np.sqrt(1 - cosine[free] ** 2) / len(frame)
    by_units = (slope + slope.T) @ units
    turned = by_units - (by_units * units).sum(1, keepdims=True) * units
    return 2 * (lengths - norm) * units + turned / lengths
