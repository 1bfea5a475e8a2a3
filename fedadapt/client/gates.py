"""A layer that looks at a batch of images and makes two numbers for each block of a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import Tensor

from fedadapt.weights import Weights

PATHS = ("value", "importance")
EPSILON = 1e-5  # beside a variance, as in PyTorch's batch norm


@dataclass(frozen=True)
class GateLayer:
    """Inputs normalised by channel, and for each number a linear layer, normalised, and a sigmoid.

    Normalisation is by the batch at hand, always; a number is the mean over its images. Weights are
    those of clients that are computed together, [D, ...].
    """

    image_shape: tuple[int, ...]  # (C, H, W)
    count: int  # blocks

    def __call__(self, weights: Weights, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and importances, both [D, blocks] and in (0, 1), of inputs [D, B, ...]."""
        x = _normalised(inputs, (1, *range(3, inputs.dim())))  # over images and places
        channel = (1, -1, *[1] * (inputs.dim() - 3))
        scale, shift = (weights[f"gate/{n}"].unflatten(1, channel) for n in ("scale", "shift"))
        x = (x * scale + shift).flatten(2)
        value, importance = (_path(weights, path, x) for path in PATHS)
        return value, importance

    def drawn(self, random: np.random.Generator) -> Weights:
        """Draw new weights, [...], float64: PyTorch's default ones, scales of 1 and shifts of 0."""
        made = {}
        for name, shape in self.shapes.items():
            if name.endswith("weight"):
                bound = shape[-1] ** -0.5
                made[name] = torch.from_numpy(random.uniform(-bound, bound, shape))
            else:
                made[name] = torch.full(shape, float(name.endswith("scale")), dtype=torch.float64)
        return made

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights, by name."""
        channels = self.image_shape[:1]
        shapes: dict[str, tuple[int, ...]] = {"gate/scale": channels, "gate/shift": channels}
        for path in PATHS:
            shapes[f"gate/{path}.weight"] = (self.count, prod(self.image_shape))
            shapes |= {f"gate/{path}.{n}": (self.count,) for n in ("scale", "shift")}
        return shapes


def _path(weights: Mapping[str, Tensor], path: str, x: Tensor) -> Tensor:
    """Return one number a block, of images [D, B, F]: [D, blocks]."""
    weight, scale, shift = (weights[f"gate/{path}.{n}"] for n in ("weight", "scale", "shift"))
    z = _normalised(torch.einsum("dbf,dlf->dbl", x, weight), (1,))
    return (z * scale.unsqueeze(1) + shift.unsqueeze(1)).sigmoid().mean(1)


def _normalised(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / (variance + EPSILON).sqrt()
