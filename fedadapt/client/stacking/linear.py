"""Linear layers of all clients as batched matrix products, with the ReLU that follows folded in."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fedadapt.client.stacking.clamp import Clamp, clamp_, clamp_backward
from fedadapt.client.stacking.sink import Sink
from fedadapt.client.stacking.value import Call, Stacked, casts

FEW_ROWS = range(5, 16)
LARGE = 2**20  # numbers: such weights before so few rows make a product in 0.6 of the time


def linear(path: str, layer: nn.Linear, clamp: Clamp | None) -> Callable[[Call, Stacked], Stacked]:
    """Return a kernel for ``clamp(x @ weight.T + bias)``, with the weights of each client."""
    weight, bias = f"{path}.weight", f"{path}.bias" if layer.bias is not None else None

    def kernel(call: Call, x: Stacked) -> Stacked:
        rows = x.plain()
        w = call.weights[weight]
        b = None if bias is None else call.weights[bias]
        x_rows = rows.reshape(call.clients, -1, rows.shape[-1])
        y = affine(x_rows, w, b, clamp, call.sinks.get(weight))
        return Stacked(y.view(*rows.shape[:-1], y.shape[-1]), call.clients)

    return kernel


def affine(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    clamp: Clamp | None,
    sink: Sink | None = None,
) -> Tensor:
    """Return ``clamp(x @ weight.T + bias)`` for each client.

    ``x`` is [D, N, I], ``weight`` [D, O, I] and ``bias`` [D, O]; the result is [D, N, O]. The
    gradient by the weight goes to the sink, if there is one, and not to autograd.
    """
    if casts(x):
        y = torch.bmm(x, weight.transpose(1, 2))
        y = y if bias is None else y + bias.unsqueeze(1).to(y.dtype)
        return y if clamp is None else clamp_(y, clamp)
    return _Affine.apply(x, weight, bias, clamp, sink)


class _Affine(torch.autograd.Function):
    """``affine`` with a gradient written by hand: fewer passes over memory than autograd's."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        clamp: Clamp | None,
        sink: Sink | None,
    ) -> Tensor:
        if x.shape[1] in FEW_ROWS and weight[0].numel() >= LARGE:
            y = torch.bmm(weight, x.transpose(1, 2)).transpose(1, 2).contiguous()
            if bias is not None:
                y += bias.unsqueeze(1)
        elif bias is None:
            y = torch.bmm(x, weight.transpose(1, 2))
        else:
            y = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
        if clamp is not None:
            clamp_(y, clamp)
        ctx.save_for_backward(x, weight, None if clamp is None else y)
        ctx.clamp, ctx.sink = clamp, sink
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        if y is not None:
            dy = clamp_backward(dy, y, ctx.clamp)
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        by_x = torch.bmm(dy, weight) if needs_x else None
        by_weight = None
        if needs_weight and ctx.sink is not None:
            ctx.sink.add(dy, x)
        elif needs_weight:
            by_weight = torch.bmm(dy.transpose(1, 2), x)
        return by_x, by_weight, dy.sum(1) if needs_bias else None, None, None
