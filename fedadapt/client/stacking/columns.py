"""Convolutions with more filters than pixels, as one matrix product for all filters.

PyTorch's convolution spends most of its time on rearranging such filters: for 32 images on a 2 x 2
map of 512 channels, the matrix product takes 0.3 of its time.
"""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from fedadapt.client.stacking.linear import affine
from fedadapt.client.stacking.value import Call, Stacked

HEAVY = 10  # the filters have so many times as many numbers as the output


def suits_columns(layer: nn.Conv2d, x: Stacked) -> bool:
    """Return whether ``by_columns`` can compute the layer and is fast on an input of this size."""
    batch, _, height, width = x.shape
    (down, across), (high, wide) = layer.stride, layer.kernel_size
    places = batch * -(-height // down) * -(-width // across)
    seen = layer.in_channels * high * wide
    return layer.groups == 1 and isinstance(layer.padding, tuple) and seen > HEAVY * places


def by_columns(path: str, layer: nn.Conv2d) -> Callable[[Call, Stacked], Stacked]:
    """Return a kernel for the convolution of every client's images, [D, B, C, H, W].

    The kernel can also be differentiated by the images.
    """

    def kernel(call: Call, x: Stacked) -> Stacked:
        images, padding = x.plain(), _padding(layer)
        columns = F.unfold(
            images.flatten(0, 1), layer.kernel_size, layer.dilation, padding, layer.stride
        )  # [D * B, C * kh * kw, H * W]
        rows = columns.unflatten(0, images.shape[:2]).transpose(2, 3).flatten(1, 2)
        name = f"{path}.weight"
        weight = call.weights[name].flatten(2)
        bias = None if layer.bias is None else call.weights[f"{path}.bias"]
        y = affine(rows, weight, bias, None, call.sinks.get(name))  # [D, B * H * W, O]
        height, width = _size(layer, images.shape[3:])
        pixels = y.view(call.clients, -1, height, width, y.shape[2])
        together = pixels.permute(1, 0, 4, 2, 3).flatten(1, 2)
        together = together.contiguous(memory_format=torch.channels_last)
        return Stacked(together, call.clients, True)

    return kernel


def _size(layer: nn.Conv2d, size: torch.Size) -> list[int]:
    """Return height and width, in pixels, of the output for an input of [height, width]."""
    padding = _padding(layer)
    spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [(size[i] + 2 * padding[i] - spans[i]) // layer.stride[i] + 1 for i in (0, 1)]


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    return cast("tuple[int, int]", layer.padding)
