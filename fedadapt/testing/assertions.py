"""Comparisons that say what differs, by name. They raise ``AssertionError``, as ``assert`` does.

``assert`` itself is not used: ``python -O`` leaves it out, and a contract must hold there too.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

FLOAT64 = {"rtol": 1e-8, "atol": 1e-9}
"""Two orders of the same sums in float64 agree to this; ``atol`` is of a tensor's largest value."""
FLOAT32 = {"rtol": 1e-3, "atol": 1e-5}
"""The same for float32, where a benchmark's images are bytes."""


def require(holds: object, complaint: str) -> None:
    """Raise ``AssertionError`` with ``complaint`` unless ``holds``."""
    if not holds:
        raise AssertionError(complaint)


def require_names(found: Mapping[str, object], wanted: Mapping[str, object], what: str) -> None:
    """Require that both have the same names."""
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    require(not missing, f"{what}: missing {', '.join(missing)}")
    require(not extra, f"{what}: unexpected {', '.join(extra)}")


def require_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str) -> None:
    """Require the same names and the same values, bit for bit."""
    require_names(found, wanted, what)
    for name, tensor in wanted.items():
        same = found[name].dtype == tensor.dtype and _same_bits(found[name], tensor)
        require(same, f"{what}: {name} differs")


def require_close(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str, limits: dict[str, float]
) -> None:
    """Require the same names, shapes and types, and values that agree up to ``limits``."""
    require_names(found, wanted, what)
    for name, tensor in wanted.items():
        if _same_bits(found[name], tensor) and found[name].dtype == tensor.dtype:
            continue
        torch.testing.assert_close(
            found[name],
            tensor,
            rtol=limits["rtol"],
            atol=limits["atol"] * (1 + _largest(tensor)),
            equal_nan=True,
            msg=lambda text, name=name: f"{what}: {name}: {text}",  # type: ignore[misc]
        )


def require_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Require that nothing is NaN or infinite."""
    for name, tensor in weights.items():
        require(bool(tensor.isfinite().all()), f"{what}: {name} is not finite")


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy that later changes in place do not reach."""
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max().nan_to_num()) if tensor.numel() else 0.0


def _same_bits(found: Tensor, wanted: Tensor) -> bool:
    """Equal, where NaN equals NaN: a state with NaN in it may be saved, too."""
    if found.shape != wanted.shape:
        return False
    if not wanted.is_floating_point():
        return torch.equal(found, wanted)
    return bool(((found == wanted) | (found.isnan() & wanted.isnan())).all())
