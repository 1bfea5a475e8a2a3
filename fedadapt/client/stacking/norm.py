"""Batch norm of all clients at once, with the channels of all clients side by side."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fedadapt.client.stacking.clamp import Clamp, clamp_, clamp_backward
from fedadapt.client.stacking.value import Call, Stacked

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def batch_norm(
    path: str, layer: BatchNorm, clamp: Clamp | None
) -> Callable[[Call, Stacked], Stacked]:
    """Return a kernel that does what ``nn.BatchNorm`` does for each client, then clamps the result.

    In training mode it updates the running statistics as well.
    """

    def kernel(call: Call, x: Stacked) -> Stacked:
        last = x.channels_last()
        rows = last.reshape(-1, last.shape[-1])  # [N, D * C]
        if call.seen is not None:
            call.seen(path, rows.detach().t().unflatten(0, (call.clients, -1)))
        y = _normalised(path, layer, call, rows, clamp)
        return x.of_channels_last(y.view(last.shape))

    return kernel


def _normalised(
    path: str, layer: BatchNorm, call: Call, rows: Tensor, clamp: Clamp | None
) -> Tensor:
    """Return the normalised rows, [N, D * C], in the layout in which they came.

    N is the number of values in a channel. Running statistics are updated in place.
    """
    if layer.training and len(rows) == 1:
        raise ValueError(f"{path}: one value a channel has no variance; give larger batches")
    given = call.weights
    weight = given[f"{path}.weight"].flatten() if layer.affine else None
    bias = given[f"{path}.bias"].flatten() if layer.affine else None
    has_running = layer.running_mean is not None
    mean = var = None
    if has_running and not layer.training:
        mean = given[f"{path}.running_mean"].flatten()
        var = given[f"{path}.running_var"].flatten()
    elif has_running and layer.track_running_stats:
        given[f"{path}.num_batches_tracked"].add_(1)
        # Written to, so views: there are none where several clients share their memory.
        mean = given[f"{path}.running_mean"].view(-1)
        var = given[f"{path}.running_var"].view(-1)
        if layer.momentum is None:
            _average(mean, var, given[f"{path}.num_batches_tracked"], rows)
            mean = var = None
    by_batch = layer.training or not has_running
    y: Tensor = _Norm.apply(
        rows, weight, bias, mean, var, by_batch, layer.momentum or 0.0, layer.eps, clamp
    )
    return y


@torch.no_grad()
def _average(mean: Tensor, var: Tensor, count: Tensor, rows: Tensor) -> None:
    """Update running statistics, in place, as averages over all batches (``momentum=None``)."""
    v, m = torch.var_mean(rows.to(mean.dtype), 0)
    share = 1.0 / count.to(mean.dtype).repeat_interleave(len(mean) // len(count))
    mean.lerp_(m, share)
    var.lerp_(v, share)


class _Norm(torch.autograd.Function):
    """PyTorch's batch norm on rows that are presented as images of one pixel.

    PyTorch then always uses its fastest implementation, channels last, which it does not choose by
    itself for very small images.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor | None,
        var: Tensor | None,
        by_batch: bool,
        momentum: float,
        eps: float,
        clamp: Clamp | None,
    ) -> Tensor:
        y, batch_mean, batch_deviation = torch.native_batch_norm(
            _pixels(rows), weight, bias, mean, var, by_batch, momentum, eps
        )
        y = y.view(rows.shape)
        if clamp is not None:
            clamp_(y, clamp)
        ctx.save_for_backward(
            rows,
            weight,
            *((None, None) if by_batch else (mean, var)),
            batch_mean,
            batch_deviation,
            None if clamp is None else y,
        )
        ctx.settings = by_batch, eps, clamp
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, mean, var, batch_mean, batch_deviation, y = ctx.saved_tensors
        by_batch, eps, clamp = ctx.settings
        if clamp is not None:
            dy = clamp_backward(dy, y, clamp)
        found = torch.ops.aten.native_batch_norm_backward(
            _pixels(dy.contiguous()),
            _pixels(rows),
            weight,
            mean,
            var,
            batch_mean,
            batch_deviation,
            by_batch,
            eps,
            ctx.needs_input_grad[:3],
        )
        dx, dw, db = (t if t is not None and t.numel() else None for t in found)
        return (None if dx is None else dx.view(rows.shape), dw, db, *[None] * 6)


def _pixels(rows: Tensor) -> Tensor:
    """View rows [N, C] as images [N, C, 1, 1] whose strides are those of channels last."""
    channels = rows.shape[1]
    return rows.as_strided((*rows.shape, 1, 1), (channels, 1, channels, channels))
