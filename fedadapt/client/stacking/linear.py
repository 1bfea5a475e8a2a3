"""Linear layers of all clients as batched matrix products, with the ReLU that follows folded in."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fedadapt.client.stacking.clamp import Clamp, clamp_, clamp_backward
from fedadapt.client.stacking.value import Call, Stacked, casts


def linear(path: str, layer: nn.Linear, clamp: Clamp | None) -> Callable[[Call, Stacked], Stacked]:
    """Return a kernel for ``clamp(x @ weight.T + bias)``, with the weights of each client."""
    weight, bias = f"{path}.weight", f"{path}.bias" if layer.bias is not None else None

    def kernel(call: Call, x: Stacked) -> Stacked:
        rows = x.plain()
        w = call.weights[weight]
        b = None if bias is None else call.weights[bias]
        y = affine(rows.reshape(call.clients, -1, rows.shape[-1]), w, b, clamp)
        return Stacked(y.view(*rows.shape[:-1], y.shape[-1]), call.clients)

    return kernel


def affine(x: Tensor, weight: Tensor, bias: Tensor | None, clamp: Clamp | None) -> Tensor:
    """Return ``clamp(x @ weight.T + bias)`` for each client.

    ``x`` is [D, N, I], ``weight`` [D, O, I] and ``bias`` [D, O]; the result is [D, N, O].
    """
    if casts(x):
        y = torch.bmm(x, weight.transpose(1, 2))
        y = y if bias is None else y + bias.unsqueeze(1).to(y.dtype)
        return y if clamp is None else clamp_(y, clamp)
    return _Affine.apply(x, weight, bias, clamp)


class _Affine(torch.autograd.Function):
    """``affine`` with a gradient written by hand: fewer passes over memory than autograd's."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, clamp: Clamp | None
    ) -> Tensor:
        if bias is None:
            y = torch.bmm(x, weight.transpose(1, 2))
        else:
            y = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
        if clamp is not None:
            clamp_(y, clamp)
        ctx.save_for_backward(x, weight, None if clamp is None else y)
        ctx.clamp = clamp
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        if y is not None:
            dy = clamp_backward(dy, y, ctx.clamp)
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            torch.bmm(dy, weight) if needs_x else None,
            torch.bmm(dy.transpose(1, 2), x) if needs_weight else None,
            dy.sum(1) if needs_bias else None,
            None,
        )
