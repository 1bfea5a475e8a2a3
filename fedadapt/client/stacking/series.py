"""Convolutions and pools over time: series of all clients, [D, B, C, T].

PyTorch's grouped convolution computes the convolution, with groups of its own for each client: for
ten clients of 32 windows it takes 0.7 of the time of one client after another, and matrix products
of patches take as long as that.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from fedadapt.client.stacking.value import Call, Stacked, Unstackable

Kernel = Callable[[Call, Stacked], Stacked]

POOLS_1D: tuple[type[nn.Module], ...] = (
    nn.MaxPool1d,
    nn.AvgPool1d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d,
)


def convolution_1d(path: str, layer: nn.Conv1d) -> Kernel:
    """Return a kernel for the convolution of every client's series with the client's filters.

    Raises:
        Unstackable: The layer pads with something else than zeros.

    """
    if layer.padding_mode != "zeros":
        raise Unstackable(f"{path}: padding_mode {layer.padding_mode}")

    def kernel(call: Call, x: Stacked) -> Stacked:
        together = _series(path, x).transpose(0, 1).flatten(1, 2)  # [B, D * C, T]
        y = F.conv1d(
            together,
            call.weights[f"{path}.weight"].flatten(0, 1),
            None if layer.bias is None else call.weights[f"{path}.bias"].flatten(),
            layer.stride,
            layer.padding,
            layer.dilation,
            call.clients * layer.groups,
        )
        return Stacked(y.unflatten(1, (call.clients, -1)).transpose(0, 1), call.clients)

    return kernel


def pool_1d(path: str, layer: nn.Module) -> Kernel:
    """Return a kernel that pools every series of every client by itself.

    Raises:
        Unstackable: The layer returns indices as well.

    """
    if getattr(layer, "return_indices", False):
        raise Unstackable(f"{path}: indices of a pool")

    def kernel(call: Call, x: Stacked) -> Stacked:
        series = _series(path, x)
        y: Tensor = layer(series.flatten(0, 1))
        return Stacked(y.unflatten(0, series.shape[:2]), call.clients)

    return kernel


def _series(path: str, x: Stacked) -> Tensor:
    """The value as [D, B, C, T].

    Raises:
        Unstackable: The value of one client is not [B, C, T].

    """
    plain = x.plain()
    if plain.dim() != 4:
        raise Unstackable(f"{path}: series of one client are [B, C, T], not {list(x.shape)}")
    return plain
