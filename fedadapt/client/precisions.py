"""How much each parameter matters on a device's images: the diagonal Fisher information."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, vmap

from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.models.mode import evaluating
from fedadapt.weights import Weights

Granularity = Literal["sample", "batch"]

GRADIENTS_AT_ONCE = 16  # per-sample gradients of the whole model held at a time: bounds memory


def fisher(
    cohort: Cohort,
    weights: Weights,
    *,
    part: Part = "train",
    granularity: Granularity = "sample",
    batch_size: int = 32,
) -> Weights:
    """Squared gradient of the log-likelihood of the true labels: the empirical Fisher, eval mode.

    ``sample``: the mean over images of each one's squared gradient (Kirkpatrick et al. 2017).
    ``batch``: the mean over batches, weighted by size, of the squared gradient of the batch's mean
    (Yu et al. 2020, whose EWC constants belong to it). Near an optimum the second is about
    ``batch_size`` times smaller.

    Returns:
        Parameter names only, each [D, ...], non-negative.

    """
    names = {n for n, _ in cohort.model.named_parameters()}

    def nll(params: Weights, held: Weights, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(cohort.forward(held | params, x), y)

    def squared(params: Weights, held: Weights, x: Tensor, y: Tensor) -> Weights:
        return {n: g**2 for n, g in grad(nll)(params, held, x, y).items()}

    each = vmap(squared, in_dims=(None, None, 0, 0))
    size = batch_size if granularity == "batch" else GRADIENTS_AT_ONCE
    rows: list[Weights] = []
    with evaluating(cohort.model):
        for d in range(len(cohort)):
            params = {n: t[d] for n, t in weights.items() if n in names}
            held = {n: t[d] for n, t in weights.items() if n not in names}
            total = {n: torch.zeros_like(t) for n, t in params.items()}
            count = 0
            for [(_, batch)] in cohort.only(d).steps(Schedule(size, 1, part, "fisher")):
                x, y = batch.inputs[0], batch.labels[0]
                if granularity == "batch":
                    found = {n: g * len(y) for n, g in squared(params, held, x, y).items()}
                else:
                    apart = each(params, held, x.unsqueeze(1), y.unsqueeze(1))
                    found = {n: g.sum(0) for n, g in apart.items()}
                total = {n: t + found[n] for n, t in total.items()}
                count += len(y)
            rows.append({n: t / count for n, t in total.items()})
    return {n: torch.stack([r[n] for r in rows]) for n in rows[0]}
