"""The first convolution of a network as a matrix product of image patches.

PyTorch's own convolution is slow on images of one channel, but not in bf16. Stored images need no
gradient, so it is not computed here: it would have to be added up from the patches.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fedadapt.client.stacking.value import Call, Stacked

MOST_SEEN = 26  # numbers in a patch; copying more, as of 3 channels, is slow
LEAST_MADE = 16  # output channels; products with fewer are slow


def suits_patches(layer: nn.Conv2d) -> bool:
    """Return whether ``by_patches`` can compute the layer and is fast.

    It must not be used where the images need a gradient.
    """
    seen = layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1]
    plain = layer.groups == 1 and layer.dilation == (1, 1) and isinstance(layer.padding, tuple)
    return plain and seen <= MOST_SEEN and layer.out_channels >= LEAST_MADE


def by_patches(path: str, layer: nn.Conv2d) -> Callable[[Call, Stacked], Stacked]:
    """Return a kernel for the convolution of every client's images, [D, B, C, H, W]."""

    def kernel(call: Call, x: Stacked) -> Stacked:
        patches, size = _patches(layer, x.plain())
        weight = call.weights[f"{path}.weight"].flatten(2)
        if layer.bias is not None:
            weight = torch.cat([weight, call.weights[f"{path}.bias"].unsqueeze(2)], 2)
        y: Tensor = _Product.apply(patches, weight)  # [P, D, O]
        return Stacked(y.view(*size, -1).permute(0, 3, 1, 2), call.clients, True)

    return kernel


def _patches(layer: nn.Conv2d, images: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Return the patch of the images at each position of the output.

    Returns:
        The patches [D, C * kh * kw, B * H * W], with one more row of ones if the layer has a bias;
        and B, H, W of the output.

    """
    (down, across), (high, wide) = layer.stride, layer.kernel_size
    above, aside = cast("tuple[int, int]", layer.padding)
    padded = F.pad(images, (aside, aside, above, above)).transpose(1, 2)  # [D, C, B, ...]
    clients, channels, batch = padded.shape[:3]
    height = (padded.shape[3] - high) // down + 1
    width = (padded.shape[4] - wide) // across + 1
    seen = channels * high * wide
    patches = images.new_empty(clients, seen + (layer.bias is not None), batch, height, width)
    by_tap = patches[:, :seen].unflatten(1, (channels, high, wide))
    for i in range(high):
        for j in range(wide):
            rows = padded[:, :, :, i : i + down * (height - 1) + 1 : down]
            by_tap[:, :, i, j] = rows[..., j : j + across * (width - 1) + 1 : across]
    patches[:, seen:] = 1.0
    return patches.flatten(2), (batch, height, width)


class _Product(torch.autograd.Function):
    """The product of patches [D, I, P] and weights [D, O, I] as [P, D, O].

    It is written straight into the memory layout of the next layer.
    """

    @staticmethod
    def forward(ctx: Any, patches: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(patches)
        clients, _, places = patches.shape
        y = patches.new_empty(places, clients, weight.shape[1])
        torch.bmm(patches.transpose(1, 2), weight.transpose(1, 2), out=y.transpose(0, 1))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor]:
        (patches,) = ctx.saved_tensors
        return None, torch.bmm(patches, dy.transpose(0, 1)).transpose(1, 2)
