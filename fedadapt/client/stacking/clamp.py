"""ReLU and similar activations as clamping between two bounds, in place, and its gradient."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Clamp(NamedTuple):
    low: float
    high: float = math.inf


def clamp_of(layer: nn.Module) -> Clamp | None:
    """Return the bounds of an activation that only clamps, such as ReLU; None for other layers."""
    if type(layer) is nn.ReLU:
        return Clamp(0.0)
    if type(layer) in (nn.ReLU6, nn.Hardtanh):
        return Clamp(float(layer.min_val), float(layer.max_val))  # type: ignore[arg-type]
    return None


def clamp_(x: Tensor, clamp: Clamp) -> Tensor:
    """Clamp ``x`` between the bounds, in place, and return it."""
    if clamp.low == 0.0 and clamp.high == math.inf:
        return torch.relu_(x)
    return torch.nn.functional.hardtanh_(x, clamp.low, clamp.high)


def clamp_backward(dy: Tensor, y: Tensor, clamp: Clamp) -> Tensor:
    """Return ``dy`` where the clamped value ``y`` lies strictly between the bounds, else 0."""
    if clamp.low == 0.0 and clamp.high == math.inf:
        return torch.ops.aten.threshold_backward(dy, y, 0.0)
    return torch.ops.aten.hardtanh_backward(dy, y, clamp.low, clamp.high)
