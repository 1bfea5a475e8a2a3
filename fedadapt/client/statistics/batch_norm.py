"""Batch-norm statistics of a model on a client's own images: for AdaBN and `reestimate`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm

from fedadapt.client.cohort import Cohort, Network, Schedule
from fedadapt.models.mode import Mode, training_norms
from fedadapt.weights import Weights, chosen, row

RUN = 128  # values of a channel that are summed up in float32


def batch_norm_statistics(
    cohort: Cohort, weights: Weights, schedule: Schedule, mode: Mode = training_norms
) -> Weights:
    """Mean and variance of the values that enter each batch-norm layer, over the client's images.

    Meanwhile every layer normalises by the statistics of its batch. The moments of the batches are
    pooled exactly (law of total variance), so the statistics of the first layer are those of all
    images at once, whatever the batch size. Deeper layers see inputs that were normalised batch by
    batch: theirs depend on the batch size and the order of the images.

    A layer that is called several times in a forward pass normalises the values of all its calls by
    the same statistics, so the calls are pooled: mean and variance are those of all values that
    enter the layer, and a call with more positions counts for more.

    Args:
        mode: How the layers normalise meanwhile, in place of the above: in evaluation mode it is by
            the running statistics, and nothing depends on the batch size.

    Returns:
        ``<layer>.running_mean`` and ``<layer>.running_var`` (biased), each [D, channels].

    """
    total: dict[str, Tensor] = {}  # sums of x and x^2 of a layer, [D, 2, channels], float64
    count: dict[str, Tensor] = {}  # values a channel of it, [D], float64
    measure = _measure(cohort)
    with mode(cohort.model):
        for groups in cohort.steps(schedule):
            for members, batch in groups:
                part = chosen(weights, members)
                for layer, (sums, values) in measure(part, batch.inputs).items():
                    if layer not in total:
                        total[layer] = sums.new_zeros((len(cohort), *sums.shape[1:]))
                        count[layer] = sums.new_zeros(len(cohort))
                    total[layer][members] += sums
                    count[layer][members] += values
    result: Weights = {}
    for layer, sums in total.items():
        mean, square = (sums / count[layer][:, None, None]).unbind(1)
        kind = weights[f"{layer}.running_mean"].dtype
        result[f"{layer}.running_mean"] = mean.to(kind)
        result[f"{layer}.running_var"] = (square - mean**2).clamp(min=0).to(kind)
    return result


Sums = dict[str, tuple[Tensor, Tensor]]
"""Layer -> sums of x and x^2 over a batch, [D, 2, channels], and values a channel, [D]; float64."""


def _measure(cohort: Cohort) -> Callable[[Weights, Tensor], Sums]:
    """Choose how the sums at the entrance of each layer are computed, a batch of each client."""
    moving = frozenset(n for n, _ in cohort.model.named_buffers())  # in training mode, in place
    alone = partial(_batch_sums, cohort, moving)
    if not cohort.stacked:
        return partial(_one_by_one, alone)
    if cohort.network is None:
        return vmap(alone)
    return partial(_stacked_sums, cohort.network, moving)


def _stacked_sums(
    network: Network, moving: frozenset[str], weights: Weights, inputs: Tensor
) -> Sums:
    seen: Sums = {}

    def listen(path: str, entering: Tensor) -> None:
        if f"{path}.running_mean" not in weights:  # the layer has no statistics
            return
        clients, channels, values = entering.shape
        rows = entering.flatten(0, 1).t()  # as they lie in memory
        sums = _sums_of_rows(rows).view(2, clients, channels).transpose(0, 1)
        _add(seen, path, sums, sums.new_full((clients,), values))

    with torch.no_grad():
        network(_copied(weights, moving), inputs, seen=listen)
    return seen


def _sums_of_rows(rows: Tensor) -> Tensor:
    """Sums of x and x^2 over rows [N, channels]: [2, channels], float64.

    They follow from mean and variance of some hundred rows at a time, which have float32's errors:
    a float64 copy of a whole map takes six times as long. The variance is about the mean, so that
    it has no larger error where the mean is large.
    """
    values, channels = rows.shape
    runs = max(1, values // RUN)
    each = values // runs
    in_runs, rest = rows[: runs * each], rows[runs * each :].double()
    in_runs = in_runs.to(torch.promote_types(rows.dtype, torch.float32))
    side_by_side = in_runs.reshape(each, runs * channels, 1, 1)
    moments = torch.batch_norm_update_stats(side_by_side, None, None, 0.0)
    mean, variance = (t.double().view(runs, channels) for t in moments)
    sums = torch.stack([mean.sum(0), (variance + mean**2).sum(0)]) * each
    return sums + torch.stack([rest.sum(0), (rest**2).sum(0)])


def _batch_sums(cohort: Cohort, moving: frozenset[str], weights: Weights, inputs: Tensor) -> Sums:
    """Of one client, without the leading axis."""
    with torch.no_grad(), _listening(cohort.model) as seen:
        cohort.forward(_copied(weights, moving), inputs)
    return dict(seen)


def _copied(weights: Weights, names: frozenset[str]) -> Weights:
    return {n: t.clone() if n in names else t for n, t in weights.items()}


@contextmanager
def _listening(model: nn.Module) -> Iterator[Sums]:
    """Record, by layer, the sums of what passes into the batch-norm layers."""
    seen: Sums = {}

    def listen(path: str, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].double().transpose(0, 1).flatten(1)  # [channels, everything else]
        sums = torch.stack([x.sum(-1), (x**2).sum(-1)])
        _add(seen, path, sums, x.new_tensor(x.shape[1]))

    hooks = [
        layer.register_forward_pre_hook(partial(listen, path))
        for path, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _add(seen: Sums, path: str, sums: Tensor, values: Tensor) -> None:
    """Add one call of a layer to the calls before it."""
    if path in seen:
        before, count = seen[path]
        sums, values = before + sums, count + values
    seen[path] = sums, values


def _one_by_one(
    measure: Callable[[Weights, Tensor], Sums], weights: Weights, inputs: Tensor
) -> Sums:
    alone = [measure(row(weights, d), inputs[d]) for d in range(len(inputs))]
    return {
        path: (torch.stack([a[path][0] for a in alone]), torch.stack([a[path][1] for a in alone]))
        for path in alone[0]
    }
