"""Batch norm of all devices: a channel of a device is a channel like any other."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedadapt.client.stacking.clamp import Clamp, clamp_
from fedadapt.client.stacking.value import Call, Stacked

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


def batch_norm(
    path: str, layer: BatchNorm, clamp: Clamp | None
) -> Callable[[Call, Stacked], Stacked]:
    """As ``nn.BatchNorm``, running statistics and all, followed by ``clamp``."""

    def kernel(call: Call, x: Stacked) -> Stacked:
        plain = x.tensor if x.is_images else x.tensor.movedim(2, 1).flatten(0, 1).movedim(0, 1)
        if call.seen is not None:
            rows = plain.detach().transpose(0, 1).flatten(1)
            call.seen(path, rows.unflatten(0, (call.devices, -1)))
        y = _normalised(path, layer, call, plain)
        y = y if clamp is None else clamp_(y, clamp)
        y = y if x.is_images else y.unflatten(1, (call.devices, -1)).transpose(0, 1)
        return x.with_tensor(y)

    return kernel


def _normalised(path: str, layer: BatchNorm, call: Call, x: Tensor) -> Tensor:
    """x [B, D * C, ...], as it is."""
    given = call.weights
    w = given[f"{path}.weight"].flatten() if layer.affine else None
    b = given[f"{path}.bias"].flatten() if layer.affine else None
    has_running = layer.running_mean is not None
    mean = var = None
    if has_running and not layer.training:
        mean = given[f"{path}.running_mean"].flatten()
        var = given[f"{path}.running_var"].flatten()
    elif has_running and layer.track_running_stats:
        given[f"{path}.num_batches_tracked"].add_(1)
        # In place: views, which there are none of where several devices share their memory.
        mean = given[f"{path}.running_mean"].view(-1)
        var = given[f"{path}.running_var"].view(-1)
        if layer.momentum is None:
            _average(mean, var, given[f"{path}.num_batches_tracked"], x)
            mean = var = None
    return F.batch_norm(
        x,
        mean,
        var,
        w,
        b,
        layer.training or not has_running,
        layer.momentum or 0.0,
        layer.eps,
    )


@torch.no_grad()
def _average(mean: Tensor, var: Tensor, count: Tensor, x: Tensor) -> None:
    """Cumulative averages over batches: ``momentum=None``."""
    v, m = torch.var_mean(x.to(mean.dtype).transpose(0, 1).flatten(1), 1)
    share = 1.0 / count.to(mean.dtype).repeat_interleave(len(mean) // len(count))
    mean.lerp_(m, share)
    var.lerp_(v, share)
