"""1x1 convolutions of all clients as batched matrix products over images laid channels last.

The product is written straight into the memory layout of the next layer, which autograd's own
functions cannot do.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedadapt.client.stacking.value import casts

NARROW = 16  # output channels; with fewer, computing the transposed product is faster


def pointwise(images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the 1x1 convolution of images in G groups.

    ``images`` is [B, G * I, H, W], ``weight`` [G, O, I] and ``bias`` [G * O]; the result is
    [B, G * O, H, W].
    """
    batch, _, height, width = images.shape
    rows = images.permute(0, 2, 3, 1).reshape(batch * height * width, len(weight), -1)
    if casts(images):
        y = torch.bmm(rows.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)
    else:
        y = _Pointwise.apply(rows, weight)
    y = y.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
    return y if bias is None else y + bias.to(y.dtype).view(-1, 1, 1)


class _Pointwise(torch.autograd.Function):
    """The product of rows [P, G, I], P pixels, and weights [G, O, I]: [P, G, O]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _product(rows, weight.transpose(1, 2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        needs_rows, needs_weight = ctx.needs_input_grad
        dx = dw = None
        if needs_rows:
            dx = _product(dy, weight)
        if needs_weight:
            x, d = rows.transpose(0, 1), dy.transpose(0, 1)
            if x.shape[2] < d.shape[2]:  # the narrower factor first
                dw = torch.bmm(x.transpose(1, 2), d).transpose(1, 2)
            else:
                dw = torch.bmm(d.transpose(1, 2), x)
        return dx, dw


def _product(rows: Tensor, matrices: Tensor) -> Tensor:
    """Return rows [P, G, K] times matrices [G, K, M] as [P, G, M], contiguous."""
    width = matrices.shape[2]
    if width < NARROW and width < matrices.shape[1]:
        turned = torch.bmm(matrices.transpose(1, 2), rows.permute(1, 2, 0))
        return turned.permute(2, 0, 1).contiguous()
    y = rows.new_empty(len(rows), len(matrices), width)
    torch.bmm(rows.transpose(0, 1), matrices, out=y.transpose(0, 1))
    return y
