"""Batch-norm statistics of a model on a client's own images: AdaBN, and re-estimation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.modules.batchnorm import _BatchNorm

from fedadapt.client.cohort import Cohort, Network, Schedule
from fedadapt.models.mode import training_norms
from fedadapt.weights import Weights


def batch_norm_statistics(cohort: Cohort, weights: Weights, schedule: Schedule) -> Weights:
    """Mean and variance of what enters each batch-norm layer, over the client's images.

    Every layer normalises by its batch's own statistics meanwhile. The batches' moments are pooled
    exactly (law of total variance, weighted by batch size), so the first layer's are those of all
    the images at once, whatever the batch size; deeper layers see inputs normalised by batch.

    Returns:
        ``<layer>.running_mean`` and ``<layer>.running_var`` (biased), each [D, channels].

    """
    total: Weights = {}  # sums of x and x^2 over batches, weighted by batch size
    count = torch.zeros(len(cohort), dtype=torch.float64)
    measure = _measure(cohort)
    with training_norms(cohort.model):
        for groups in cohort.steps(schedule):
            for members, batch in groups:
                part = {n: t[members] for n, t in weights.items()}
                found = measure(part, batch.inputs)
                size = batch.labels.shape[1]
                for n, t in found.items():
                    if n not in total:
                        total[n] = t.new_zeros((len(cohort), *t.shape[1:]), dtype=torch.float64)
                    total[n][members] += size * t.double()
                count[members] += size
    result: Weights = {}
    for name in [n for n in total if n.endswith(".running_mean")]:
        layer = name.removesuffix(".running_mean")
        share = count.to(total[name].device)[:, None]
        mean, square = total[name] / share, total[f"{layer}.running_var"] / share
        states = weights[name].dtype
        result[name] = mean.to(states)
        result[f"{layer}.running_var"] = (square - mean**2).clamp(min=0).to(states)
    return result


def _measure(cohort: Cohort) -> Callable[[Weights, Tensor], Weights]:
    """How E[x] and E[x^2] are found at the entrance of each layer, for a batch of each client."""
    alone = partial(_batch_moments, cohort)
    if not cohort.stacked:
        return partial(_one_by_one, alone)
    return vmap(alone) if cohort.network is None else partial(_stacked_moments, cohort.network)


def _stacked_moments(network: Network, weights: Weights, inputs: Tensor) -> Weights:
    seen: Weights = {}

    def listen(path: str, entering: Tensor) -> None:
        x = entering.double()  # [D, channels, everything else]
        seen[f"{path}.running_mean"] = x.mean(2)
        seen[f"{path}.running_var"] = (x**2).mean(2)

    with torch.no_grad():
        network({n: t.clone() for n, t in weights.items()}, inputs, seen=listen)
    return seen


def _batch_moments(cohort: Cohort, weights: Weights, inputs: Tensor) -> Weights:
    """Of one client, [channels] a layer, float64."""
    with torch.no_grad(), _listening(cohort.model) as seen:
        cohort.forward({n: t.clone() for n, t in weights.items()}, inputs)
    return dict(seen)


@contextmanager
def _listening(model: nn.Module) -> Iterator[Weights]:
    """Record, by layer, the moments of what passes into the batch-norm layers."""
    seen: Weights = {}

    def listen(path: str, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].double().transpose(0, 1).flatten(1)  # [channels, everything else]
        seen[f"{path}.running_mean"] = x.mean(1)
        seen[f"{path}.running_var"] = (x**2).mean(1)

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


def _one_by_one(measure: Any, weights: Weights, inputs: Tensor) -> Weights:
    alone = [measure({n: t[d] for n, t in weights.items()}, inputs[d]) for d in range(len(inputs))]
    return {n: torch.stack([a[n] for a in alone]) for n in alone[0]}
