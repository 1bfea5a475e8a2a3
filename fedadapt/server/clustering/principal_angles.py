"""How far apart subspaces are: principal angles, in degrees."""

import torch
from torch import Tensor


def angles_between(bases: Tensor, others: Tensor, *, smallest: bool = False) -> Tensor:
    """The mean principal angle of every pair, or the smallest one: [m, n], degrees.

    The cosines are the singular values of Q_i' Q_j for orthonormal bases (Björck and Golub 1973).
    Subspaces of r and s dimensions have min(r, s) angles; all are 0 where one holds the other.

    Args:
        bases: [m, pixels, r]; columns are orthonormal, or zero and last.
        others: [n, pixels, r], likewise.

    """
    first, second = _orthonormal(bases), _orthonormal(others)
    sizes = _dimensions(second)
    rows = []
    for basis, size in zip(first, _dimensions(first).tolist(), strict=True):
        cosines = torch.linalg.svdvals(basis.T @ second).clamp(max=1)  # [n, r], largest first
        angles = torch.rad2deg(torch.arccos(cosines))
        count = sizes.clamp(max=size)
        counted = torch.arange(angles.shape[1]) < count[:, None]
        mean = (angles * counted).sum(1) / count
        rows.append(angles[:, 0] if smallest else mean)
    return torch.stack(rows)


def _dimensions(bases: Tensor) -> Tensor:
    """How many columns of each are not zero: [n]."""
    return bases.any(1).sum(1)


def _orthonormal(bases: Tensor) -> Tensor:
    """The same spans in float64: what travelled in float32 is orthonormal to 1e-7 only."""
    columns = bases.double()
    used = columns.any(1, keepdim=True)
    return torch.linalg.qr(columns).Q * used
