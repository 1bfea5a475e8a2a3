"""The values that a stacked network computes with, and the arguments of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedadapt.client.stacking.sink import Sink
from fedadapt.weights import Weights

Seen = Callable[[str, Tensor], None]


class Unstackable(ValueError):
    """A part of a model has no stacked kernel; compute it with vmap or one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """The arguments of one call of a stacked network."""

    weights: Weights  # parameters and buffers, each [D, ...]
    clients: int
    seen: Seen | None  # called with the input of each batch-norm layer
    generators: Sequence[torch.Generator] | None  # one a client, for dropout
    sinks: Mapping[str, Sink] = field(default_factory=dict)  # of weights, for kernels that can add


@dataclass(frozen=True, slots=True, eq=False)
class Stacked:
    """A value of every client, in one of two layouts.

    The *plain* layout is [D, *shape]. The *images* layout holds [B, C, H, W] of every client as
    [B, D * C, H, W], channels last in memory: the channels of all clients lie side by side at each
    pixel. In this layout one ordinary call computes depthwise convolutions, batch norm and pooling
    of all clients, and a 1x1 convolution is a batched matrix product of strided views without a
    permutation.
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
        """Return the value as [D, *shape]; it is a view."""
        if not self.is_images:
            return self.tensor
        return self.tensor.unflatten(1, (self.clients, -1)).transpose(0, 1)

    def images(self) -> Tensor:
        """Return the value as [B, D * C, H, W], channels last in memory.

        Raises:
            Unstackable: The value of one client is not [B, C, H, W].

        """
        if self.is_images:
            return self.tensor
        if self.tensor.dim() != 5:
            raise Unstackable(f"images of one client are [B, C, H, W], not {list(self.shape)}")
        together = self.tensor.transpose(0, 1).flatten(1, 2)
        return together.contiguous(memory_format=torch.channels_last)

    def channels_last(self) -> Tensor:
        """Return the value as [B, ..., D * C]; it is a view where the layout is images."""
        if self.is_images:
            return self.tensor.permute(0, 2, 3, 1)
        batch_first = self.tensor.transpose(0, 1)  # [B, D, C, ...]
        return batch_first.flatten(1, 2).movedim(1, -1)

    def of_channels_last(self, values: Tensor) -> Stacked:
        """Return ``values`` [B, ..., D * C] in this layout; the inverse of ``channels_last``."""
        channels_first = values.movedim(-1, 1)
        if self.is_images:
            return self.with_tensor(channels_first)
        return self.with_tensor(channels_first.unflatten(1, (self.clients, -1)).transpose(0, 1))

    def with_tensor(self, tensor: Tensor) -> Stacked:
        """Return a stacked value with another tensor in the same layout."""
        return Stacked(tensor, self.clients, self.is_images)


def casts(x: Tensor) -> bool:
    """Return whether autocast is on.

    Autocast handles PyTorch's operators but not the functions with hand-written gradients here.
    """
    where = x.device.type
    return where in ("cpu", "cuda") and torch.is_autocast_enabled(where)
