"""The values that a stacked network computes with, and the arguments of a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedadapt.weights import Weights

Seen = Callable[[str, Tensor], None]


class Unstackable(ValueError):
    """A part of a model has no stacked kernel; compute it with vmap or one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a stacked network."""

    weights: Weights  # parameters and buffers, each [D, ...]
    clients: int
    seen: Seen | None  # called with the input of each batch-norm layer
    generators: Sequence[torch.Generator] | None  # one a client, for dropout


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """A value of every client, in one of two layouts.

    The *plain* layout is [D, *shape]. The *images* layout holds [B, C, H, W] of every client as
    [B, D * C, H, W], channels last in memory: the channels of all clients lie side by side at each
    pixel. In it, depthwise convolutions, batch norm and pooling of all clients are ordinary ones,
    and a 1x1 convolution is a batched matrix product of strided views without a permutation.
    """

    tensor: Tensor
    clients: int
    is_images: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that a single client would see."""
        if not self.is_images:
            return tuple(self.tensor.shape[1:])
        batch, channels, height, width = self.tensor.shape
        return (batch, channels // self.clients, height, width)

    def plain(self) -> Tensor:
        """[D, *shape], a view."""
        if not self.is_images:
            return self.tensor
        return self.tensor.unflatten(1, (self.clients, -1)).transpose(0, 1)

    def images(self) -> Tensor:
        """[B, D * C, H, W]; channels last in memory if they have been images before."""
        if self.is_images:
            return self.tensor
        if self.tensor.dim() != 5:
            raise Unstackable(f"images of one client are [B, C, H, W], not {list(self.shape)}")
        together = self.tensor.transpose(0, 1).flatten(1, 2)
        return together.contiguous(memory_format=torch.channels_last)

    def channels_last(self) -> Tensor:
        """[B, ..., D * C]; a view of images."""
        if self.is_images:
            return self.tensor.permute(0, 2, 3, 1)
        batch_first = self.tensor.transpose(0, 1)  # [B, D, C, ...]
        return batch_first.flatten(1, 2).movedim(1, -1)

    def of_channels_last(self, values: Tensor) -> Stacked:
        """The inverse of ``channels_last``: ``values`` in the layout of this."""
        channels_first = values.movedim(-1, 1)
        if self.is_images:
            return self.with_tensor(channels_first)
        return self.with_tensor(channels_first.unflatten(1, (self.clients, -1)).transpose(0, 1))

    def with_tensor(self, tensor: Tensor) -> Stacked:
        """Return other numbers in the same layout."""
        return Stacked(tensor, self.clients, self.is_images)


def casts(x: Tensor) -> bool:
    """Whether autocast is on; it handles PyTorch's operators but not our own functions."""
    where = x.device.type
    return where in ("cpu", "cuda") and torch.is_autocast_enabled(where)
