"""Dropout with a random stream for each client: its draws do not depend on the other clients."""

from collections.abc import Callable

import torch
from torch import nn

from fedadapt.client.stacking.value import Call, Stacked

Dropout = nn.Dropout | nn.Dropout1d | nn.Dropout2d


def dropout(layer: Dropout) -> Callable[[Call, Stacked], Stacked]:
    """Return a kernel for dropout.

    The mask of a client is what ``layer`` alone would draw from the client's generator.
    """
    whole_channels = not isinstance(layer, nn.Dropout)

    def kernel(call: Call, x: Stacked) -> Stacked:
        if not layer.training or layer.p == 0.0:
            return x
        if call.generators is None:
            raise ValueError("dropout in training mode: give a generator for each client")
        shape = x.shape
        if whole_channels:
            shape = (*shape[:2], *[1] * (len(shape) - 2))
        plain = x.plain()
        mask = torch.empty((call.clients, *shape), dtype=plain.dtype, device=plain.device)
        for one, generator in zip(mask, call.generators, strict=True):
            one.bernoulli_(1 - layer.p, generator=generator)
        if layer.p < 1.0:
            mask.div_(1 - layer.p)
        return Stacked(plain * mask, call.clients)

    return kernel
