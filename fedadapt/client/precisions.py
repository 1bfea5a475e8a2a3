"""How much each parameter matters on a device's images: MAS and the diagonal Fisher information.

Each is a score of the logits, and a magnitude of the score's gradient that is averaged over images
or over batches. Always in evaluation mode: batch norm uses its statistics and never moves them.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap

from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.errors import InputError, nearest
from fedadapt.models.mode import evaluating
from fedadapt.weights import Weights, num_bytes, row

Granularity = Literal["sample", "batch"]
Kind = Literal["mas", "fisher", "true-fisher"]

Score = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits [B, C], labels [B] and levels [B] -> what is differentiated, a mean over the batch.

Levels are uniform numbers in [0, 1), one an image: the randomness of scores that have any.
"""
Magnitude = Callable[[Tensor], Tensor]
Gradient = Callable[[Tensor, Tensor, Tensor], Weights]
Reduction = Callable[[Gradient, Magnitude, Tensor, Tensor, Tensor], tuple[Weights, int]]
"""Inputs, labels, levels of a batch -> what it adds to the sum, and to what the sum is divided by.
"""

GRADIENT_BYTES = 2**26  # per-sample gradients held at a time: bounds memory
IMAGES_AT_ONCE = 64  # more gain nothing, and small networks have large activations


class Measure(NamedTuple):
    """What importance is."""

    score: Score
    magnitude: Magnitude


def squared_norm(logits: Tensor, labels: Tensor, levels: Tensor) -> Tensor:
    """||F(x)||^2, of which MAS takes the gradient (Aljundi et al. 2018, sec. 4.1; DUA, eq. 3)."""
    return logits.square().sum(-1).mean()


def log_likelihood(logits: Tensor, labels: Tensor, levels: Tensor) -> Tensor:
    """Log p(label | x): of the empirical Fisher."""
    return -F.cross_entropy(logits, labels)


def drawn_log_likelihood(logits: Tensor, labels: Tensor, levels: Tensor) -> Tensor:
    """Log p(y | x) for y drawn from the model: of the true Fisher, which needs no labels."""
    return -F.cross_entropy(logits, drawn(logits.detach(), levels))


def drawn(logits: Tensor, levels: Tensor) -> Tensor:
    """Class numbers [B] from the softmax of ``logits`` [B, C], by inverting its distribution."""
    reached = F.softmax(logits.double(), dim=-1).cumsum(-1) <= levels.unsqueeze(-1)
    return reached.sum(-1).clamp(max=logits.shape[-1] - 1)  # the last sum may round to below 1


MEASURES: dict[Kind, Measure] = {
    "mas": Measure(squared_norm, torch.abs),
    "fisher": Measure(log_likelihood, torch.square),
    "true-fisher": Measure(drawn_log_likelihood, torch.square),
}


def samples(
    gradient: Gradient, magnitude: Magnitude, x: Tensor, y: Tensor, levels: Tensor
) -> tuple[Weights, int]:
    """Mean over images of each one's magnitude."""
    apart = vmap(gradient)(x.unsqueeze(1), y.unsqueeze(1), levels.unsqueeze(1))
    return {n: magnitude(g).sum(0) for n, g in apart.items()}, len(x)


def batches(
    gradient: Gradient, magnitude: Magnitude, x: Tensor, y: Tensor, levels: Tensor
) -> tuple[Weights, int]:
    """Mean over batches, a short one like any other, of the magnitude of the mean gradient."""
    return {n: magnitude(g) for n, g in gradient(x, y, levels).items()}, 1


def sized_batches(
    gradient: Gradient, magnitude: Magnitude, x: Tensor, y: Tensor, levels: Tensor
) -> tuple[Weights, int]:
    """The same, batches weighted by size."""
    return {n: magnitude(g) * len(x) for n, g in gradient(x, y, levels).items()}, len(x)


def importances(
    cohort: Cohort,
    weights: Weights,
    *,
    kind: Kind = "mas",
    granularity: Granularity = "sample",
    batch_size: int = 20,
    part: Part = "adapt",
    exclude: Iterable[str] = (),
    floor: float = 0.0,
) -> Weights:
    """Importance of each parameter on each device's images: Omega of DUA (psi, sec. 3.2).

    ``sample``: the mean over images of each one's magnitude. ``batch``: the mean over batches of
    the magnitude of a batch's mean gradient, as DUA's released code has it; smaller, for opposite
    signs cancel. A last image that would be alone joins the batch before.

    Args:
        kind: ``mas``: |gradient of the squared norm of the logits|. ``fisher``: squared gradient of
            the log-likelihood of the true labels; ``true-fisher``: of labels the model draws.
        batch_size: Of ``batch``; ``sample`` takes as many images at once as bounded memory allows.
        exclude: Names, or the layers they are in: the head.
        floor: Added to every entry; DUA's released Fisher has 1e-8.

    Returns:
        Parameter names only, each [D, ...], non-negative.

    Raises:
        InputError: ``exclude`` names nothing of the network, or leaves nothing.

    """
    names = _included(cohort.model, exclude)
    size = batch_size if granularity == "batch" else _images_at_once(weights, names)
    schedule = Schedule(size, 1, part, "importance")
    reduction = batches if granularity == "batch" else samples
    found = _mean(cohort, weights, names, schedule, MEASURES[kind], reduction)
    return {n: t.add_(floor) for n, t in found.items()}


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
    names = _included(cohort.model)
    size = batch_size if granularity == "batch" else _images_at_once(weights, names)
    schedule = Schedule(size, 1, part, "fisher")
    reduction = sized_batches if granularity == "batch" else samples
    return _mean(cohort, weights, names, schedule, MEASURES["fisher"], reduction)


def _mean(
    cohort: Cohort,
    weights: Weights,
    names: frozenset[str],
    schedule: Schedule,
    measure: Measure,
    reduction: Reduction,
) -> Weights:
    """One device after the other: beside the result, memory is that of one."""
    found = {
        n: torch.zeros(t.shape, dtype=t.dtype, device=t.device)
        for n, t in weights.items()
        if n in names
    }
    with evaluating(cohort.model):
        for d in range(len(cohort)):
            gradient = _gradient(cohort, row(weights, d), names, measure.score)
            levels = cohort.generator(d, f"{schedule.purpose}/levels")
            count = 0
            for [(_, batch)] in cohort.only(d).steps(schedule):
                x, y = batch.inputs[0], batch.labels[0]
                u = torch.from_numpy(levels.random(len(y))).to(y.device)
                added, size = reduction(gradient, measure.magnitude, x, y, u)
                for n, t in added.items():
                    found[n][d] += t
                count += size
            for t in found.values():
                t[d] /= count
    return found


def _gradient(cohort: Cohort, weights: Weights, names: frozenset[str], score: Score) -> Gradient:
    """The gradient of ``score`` for one device's ``weights``, by those called ``names``."""
    held = {n: t for n, t in weights.items() if n not in names}
    cohort = replace(cohort, stacked=True)  # under vmap no image can be copied channels last

    def value(params: Weights, x: Tensor, y: Tensor, levels: Tensor) -> Tensor:
        return score(cohort.forward(held | params, x), y, levels)

    return partial(grad(value), {n: t for n, t in weights.items() if n in names})


def _images_at_once(weights: Weights, names: frozenset[str]) -> int:
    """How many images' gradients, each as large as one device's parameters, are held at a time."""
    one = num_bytes({n: t[0] for n, t in weights.items() if n in names})
    return max(1, min(IMAGES_AT_ONCE, GRADIENT_BYTES // one))


def _included(model: nn.Module, exclude: Iterable[str] = ()) -> frozenset[str]:
    """The parameters that are neither named by ``exclude`` nor inside a layer it names."""
    out = [exclude] if isinstance(exclude, str) else list(exclude)
    known = [*model.state_dict(), *(path for path, _ in model.named_modules() if path)]
    for name in out:
        if name not in known:
            raise InputError(
                f"importance: exclude: the network has no {name!r}{nearest(name, known)}; the "
                "name of a parameter or of a layer"
            )
    left = frozenset(
        n
        for n, _ in model.named_parameters()
        if not any(n == name or n.startswith(f"{name}.") for name in out)
    )
    if not left:
        raise InputError("importance: exclude leaves no parameter; leave out the head only")
    return left
