"""Convolutions of all clients: which kernel is fast depends on the kind and the size of the map."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedadapt.client.stacking.columns import by_columns, suits_columns
from fedadapt.client.stacking.patches import by_patches, suits_patches
from fedadapt.client.stacking.pointwise import pointwise
from fedadapt.client.stacking.value import Call, Stacked, Unstackable, casts

Kernel = Callable[[Call, Stacked], Stacked]
Convolve = Callable[[Tensor, Tensor, Tensor | None, int], Tensor]
"""(images [B, D * C, H, W], filters [D * O, I, kh, kw], biases [D * O], D) -> [B, D * O, ...]"""

FEW_PIXELS = 4  # up to here a depthwise filter is a matrix over all pixels


def convolution(path: str, layer: nn.Conv2d) -> Kernel:
    """Return the fastest kernel for a convolution of all clients.

    Matrix products compute 1x1 convolutions and, on a CPU, the first layer of a network and layers
    with few pixels. PyTorch's own grouped convolution computes all others.
    """
    if layer.padding_mode != "zeros":
        raise Unstackable(f"{path}: padding_mode {layer.padding_mode}")
    convolve = _convolve(layer)
    of_patches = by_patches(path, layer) if suits_patches(layer) else None
    of_columns = by_columns(path, layer)

    def kernel(call: Call, x: Stacked) -> Stacked:
        if not x.tensor.is_cuda:
            if of_patches and not x.tensor.requires_grad and not casts(x.tensor):
                return of_patches(call, x)
            if layer.kernel_size != (1, 1) and suits_columns(layer, x):
                return of_columns(call, x)
        filters = call.weights[f"{path}.weight"].flatten(0, 1)
        bias = None if layer.bias is None else call.weights[f"{path}.bias"].flatten()
        return Stacked(convolve(x.images(), filters, bias, call.clients), call.clients, True)

    return kernel


def _convolve(layer: nn.Conv2d) -> Convolve:
    if layer.kernel_size == (1, 1) and layer.padding in ((0, 0), "same", "valid"):
        return _pointwise(layer)
    grouped = _grouped(layer)
    if layer.groups < layer.in_channels or layer.in_channels == 1:
        return grouped
    tiny = _depthwise_of_few_pixels(layer)

    def convolve(images: Tensor, filters: Tensor, bias: Tensor | None, clients: int) -> Tensor:
        few = images.shape[2] * images.shape[3] <= FEW_PIXELS
        return (tiny if few else grouped)(images, filters, bias, clients)

    return convolve


def _pointwise(layer: nn.Conv2d) -> Convolve:
    down, across = layer.stride

    def convolve(images: Tensor, filters: Tensor, bias: Tensor | None, clients: int) -> Tensor:
        if (down, across) != (1, 1):
            images = images[:, :, ::down, ::across]
        groups = clients * layer.groups
        return pointwise(images, filters.view(groups, -1, filters.shape[1]), bias)

    return convolve


def _grouped(layer: nn.Conv2d) -> Convolve:
    """Return PyTorch's own convolution with a separate set of groups for each client."""

    def convolve(images: Tensor, filters: Tensor, bias: Tensor | None, clients: int) -> Tensor:
        y = F.conv2d(
            images,
            filters,
            bias,
            layer.stride,
            layer.padding,
            layer.dilation,
            clients * layer.groups,
        )
        return y.contiguous(memory_format=torch.channels_last)

    return convolve


def _depthwise_of_few_pixels(layer: nn.Conv2d) -> Convolve:
    """Return a depthwise convolution that multiplies by a matrix for each channel.

    The filter of a channel is written out as a matrix [output pixels, input pixels]. PyTorch's own
    convolution is slow where the image is smaller than the filter.
    """
    patterns: dict[tuple[object, ...], Tensor] = {}
    multiple = layer.out_channels // layer.in_channels

    def convolve(images: Tensor, filters: Tensor, bias: Tensor | None, clients: int) -> Tensor:
        batch, _, height, width = images.shape
        key = (height, width, filters.dtype, filters.device)
        if key not in patterns:
            patterns[key] = _pattern(layer, (height, width), filters)
        pattern = patterns[key]
        matrices = torch.einsum("tyxi,nt->yxin", pattern, filters.flatten(1))
        pixels = images.permute(0, 2, 3, 1).reshape(batch, 1, 1, height * width, -1)
        if multiple > 1:
            pixels = pixels.repeat_interleave(multiple, -1)
        y = (pixels * matrices).sum(3)  # [B, H, W, D * O]
        return (y if bias is None else y + bias.to(y.dtype)).permute(0, 3, 1, 2)

    return convolve


def _pattern(layer: nn.Conv2d, size: tuple[int, int], like: Tensor) -> Tensor:
    """Return which tap of the filter leads from which input pixel to which output pixel.

    It is the layer's output for images in which one pixel is 1, with filters in which one tap is 1.

    Returns:
        [taps, output height, output width, input pixels] of ones and zeros.

    """
    height, width = size
    down, across = layer.kernel_size
    taps, pixels = torch.eye(down * across), torch.eye(height * width)
    with torch.autocast("cpu", enabled=False):
        answer = F.conv2d(
            pixels.view(-1, 1, height, width),
            taps.view(-1, 1, down, across),
            None,
            layer.stride,
            layer.padding,
            layer.dilation,
        )
    return answer.permute(1, 2, 3, 0).to(like)
