"""Importance of each parameter on a client's images: MAS and the diagonal Fisher information.

Each is defined by a score of the logits and a magnitude of the score's gradient, which is averaged
over images or over batches. The network is in evaluation mode: batch norm uses its statistics and
never changes them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.client.stacking.affine_chain import AffineChain, Layer
from fedadapt.client.stacking.image_stack import ImageStack, suits_images
from fedadapt.client.statistics.measures import MEASURES, Kind, Measure
from fedadapt.client.statistics.per_sample_gradients import layers_of, magnitudes
from fedadapt.errors import InputError, nearest
from fedadapt.models.mode import evaluating
from fedadapt.objectives import Batch
from fedadapt.weights import Weights, chosen, num_bytes, row

Granularity = Literal["sample", "batch"]
Batches = Literal["alike", "by-size", "summed"]
"""How batches are averaged, of b images each and of N together; g is the mean gradient of a batch.

``alike``: every batch counts once, a short last one too: mean of magnitude(g). ``by-size``: as many
times as it has images: sum of b magnitude(g) / N. ``summed``: the magnitude of the gradient of the
batch's summed score, over the number of images: sum of magnitude(b g) / N.
"""
GRADIENT_BYTES = 2**26  # images' gradients, or activations, held at a time: bounds memory
IMAGES_AT_ONCE = 64  # more gain nothing
STACK_BYTES = 2**28  # of activations of images in a stack: no more than a stack of clients has
IMAGES_IN_STACK = 128  # these have many short operators
ACTIVATIONS = 128  # an image's, in multiples of its own size: as in a VGG


def importances(
    cohort: Cohort,
    weights: Weights,
    *,
    kind: Kind = "mas",
    granularity: Granularity = "sample",
    batch_size: int = 20,
    batches: Batches = "alike",
    part: Part = "adapt",
    exclude: Iterable[str] = (),
    floor: float = 0.0,
) -> Weights:
    """Importance of each parameter on each client's images: Omega of DUA (psi, sec. 3.2).

    ``sample``: the mean over images of each one's magnitude. ``batch``: the mean over batches of
    the magnitude of a batch's gradient, as DUA's released code has it; it is smaller, because
    opposite signs cancel. A last image that would be alone joins the batch before.

    Args:
        kind: ``mas``: |gradient of the squared norm of the logits|. ``fisher``: squared gradient of
            the log-likelihood of the true labels; ``true-fisher``: of labels the model draws.
        batch_size: Of ``batch``; ``sample`` takes as many images at once as bounded memory allows.
        batches: Of ``batch``: the weight of a batch, see ``Batches``. DUA's released code has
            ``alike`` for the importances by which experts are merged, and ``summed`` for its EWC.
        exclude: Names, or the layers they are in: the head.
        floor: Added to every entry; DUA's released Fisher has 1e-8.

    Returns:
        Parameter names only, each [D, ...], non-negative.

    Raises:
        InputError: ``exclude`` names nothing of the network, or leaves nothing.

    """
    names = _included(cohort.model, exclude)
    if kind != "fisher":  # all others read no labels
        cohort = cohort.without_labels()
    variant = _Way(names, MEASURES[kind], granularity, batch_size, batches)
    means = _mean(cohort, weights, variant, part, "importance")
    return {n: t.add_(floor) for n, t in means.items()}


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
    variant = _Way(names, MEASURES["fisher"], granularity, batch_size, "by-size")
    return _mean(cohort, weights, variant, part, "fisher")


class _Way(NamedTuple):
    """The variant of importance that is measured."""

    names: frozenset[str]  # of the parameters
    measure: Measure
    granularity: Granularity
    batch_size: int  # of ``batch``
    batches: Batches  # of ``batch``


def _mean(cohort: Cohort, weights: Weights, variant: _Way, part: Part, purpose: str) -> Weights:
    """The mean of every client: of all together where they are computed so, else one by one."""
    with evaluating(cohort.model):
        if variant.granularity == "batch":
            schedule = Schedule(variant.batch_size, 1, part, purpose)
            if cohort.stacked:
                return _mean_of(cohort, weights, schedule, partial(_of_batches, cohort, variant))
            each = [
                (alone, partial(_of_batches, alone, variant), schedule) for alone in _alone(cohort)
            ]
        elif (chain := _chain(cohort, variant, part)) is not None:
            schedule = Schedule(IMAGES_AT_ONCE, 1, part, purpose)
            add = partial(_of_images_of_chain, chain, variant)
            return _mean_of(cohort, weights, schedule, add)
        else:
            way = _image_by_image(cohort, variant)
            each = [
                (
                    alone,
                    partial(way.add, alone, variant),
                    Schedule(_images_at_once(alone, part, way), 1, part, purpose),
                )
                for alone in _alone(cohort)
            ]
        # Beside the result, memory is that of one.
        means = {n: torch.empty_like(t) for n, t in weights.items() if n in variant.names}
        for d, (alone, add, schedule) in enumerate(each):
            own = {n: t[d : d + 1] for n, t in weights.items()}
            for n, t in _mean_of(alone, own, schedule, add).items():
                means[n][d] = t[0]
    return means


def _chain(cohort: Cohort, variant: _Way, part: Part) -> AffineChain | None:
    """The network where it is linear layers in a row, and all that is measured is theirs."""
    chain = cohort.chain
    if chain is None or not variant.names <= chain.names:
        return None
    return chain if chain.takes(cohort.part(part)[0].inputs.unsqueeze(0)) else None


class _ImageByImage(NamedTuple):
    """How the images of one client are measured, and how many of them together."""

    add: Callable[[Cohort, _Way, Weights, Batch, Tensor], tuple[Weights, int]]
    most: int  # images
    room: int  # bytes of activations


def _image_by_image(cohort: Cohort, variant: _Way) -> _ImageByImage:
    layers = layers_of(cohort.model, variant.names)
    stacks = cohort.network is not None and cohort.autocast is None
    if layers is not None and stacks and suits_images(cohort.model):
        return _ImageByImage(_of_image_stack, IMAGES_IN_STACK, STACK_BYTES)
    return _ImageByImage(partial(_of_images, layers), IMAGES_AT_ONCE, GRADIENT_BYTES)


def _alone(cohort: Cohort) -> list[Cohort]:
    return [cohort.only(d) for d in range(len(cohort))]


Add = Callable[[Weights, Batch, Tensor], tuple[Weights, int]]
"""Some clients' weights, a batch of each and levels [D, B] -> what the batch adds to each client's
sum, [D, ...], and to the number by which the sum is divided."""


def _mean_of(cohort: Cohort, weights: Weights, schedule: Schedule, add: Add) -> Weights:
    levels = [cohort.generator(d, f"{schedule.purpose}/levels") for d in range(len(cohort))]
    total: Weights = {}
    count = torch.zeros(len(cohort), dtype=torch.float64)
    for groups in cohort.steps(schedule):
        for members, batch in groups:
            size = batch.labels.shape[1]
            drawing = np.stack([levels[d].random(size) for d in members])
            of_batch = torch.from_numpy(drawing).to(batch.labels.device)
            added, number = add(chosen(weights, members), batch, of_batch)
            count[members] += number
            if len(members) == len(cohort):
                total = {n: total[n].add_(t) if n in total else t for n, t in added.items()}
                continue
            for n, t in added.items():
                if n not in total:
                    total[n] = t.new_zeros((len(cohort), *t.shape[1:]))
                total[n][members] += t
    return {
        n: t.div_(count.to(t.device, t.dtype).view(-1, *[1] * (t.dim() - 1)))
        for n, t in total.items()
    }


def _of_batches(
    cohort: Cohort, variant: _Way, weights: Weights, batch: Batch, levels: Tensor
) -> tuple[Weights, int]:
    """The magnitude of the gradient of each client's batch."""
    magnitude, size = variant.measure.magnitude, batch.labels.shape[1]
    gradients = _gradients(cohort, variant, weights, batch, levels)
    if variant.batches == "summed":
        return {n: magnitude(size * g) for n, g in gradients.items()}, size
    count = 1 if variant.batches == "alike" else size
    return {n: magnitude(g).mul_(count) for n, g in gradients.items()}, count


def _gradients(
    cohort: Cohort, variant: _Way, weights: Weights, batch: Batch, levels: Tensor
) -> Weights:
    """The gradient of the mean score of each client's batch, [D, ...]."""
    chain = cohort.chain
    if chain is not None and variant.names <= chain.names and chain.takes(batch.inputs):
        found = {}
        for layer, x, dy in _back(chain, variant, weights, batch, levels):
            found[layer.weight] = torch.bmm(dy.transpose(1, 2), x)
            if layer.bias is not None:
                found[layer.bias] = dy.sum(1)
        return {n: g for n, g in found.items() if n in variant.names}
    params = {n: t.detach().requires_grad_() for n, t in weights.items() if n in variant.names}
    with torch.enable_grad():
        logits = cohort.logits(weights | params, batch.inputs)
        scores = variant.measure.score(logits, batch.labels, levels)
        gradients = torch.autograd.grad(
            scores.sum(), list(params.values()), allow_unused=True, materialize_grads=True
        )
    return dict(zip(params, gradients, strict=True))


def _of_images_of_chain(
    chain: AffineChain, variant: _Way, weights: Weights, batch: Batch, levels: Tensor
) -> tuple[Weights, int]:
    """The sum over images of each one's magnitude, of all clients at once.

    An image's gradient by a weight is a product, so its magnitude is one of magnitudes.
    """
    magnitude, size = variant.measure.magnitude, batch.labels.shape[1]
    sums = {}
    for layer, x, dy in _back(chain, variant, weights, batch, levels, times=size):
        large = magnitude(dy)
        sums[layer.weight] = torch.bmm(large.transpose(1, 2), magnitude(x))
        if layer.bias is not None:
            sums[layer.bias] = large.sum(1)
    return {n: t for n, t in sums.items() if n in variant.names}, size


@torch.no_grad()
def _back(
    chain: AffineChain,
    variant: _Way,
    weights: Weights,
    batch: Batch,
    levels: Tensor,
    times: float = 1.0,
) -> Iterator[tuple[Layer, Tensor, Tensor]]:
    """Yield the layers, what enters each, and ``times`` the score's gradient by what leaves it."""
    logits, entering = chain.forward(weights, batch.inputs)
    with torch.enable_grad():
        leaf = logits.requires_grad_()
        score = variant.measure.score(leaf, batch.labels, levels)
        [slope] = torch.autograd.grad(times * score.sum(), leaf)
    yield from chain.backward(weights, entering, slope, variant.names)


def _of_images(
    layers: tuple[str, ...] | None,
    cohort: Cohort,
    variant: _Way,
    weights: Weights,
    batch: Batch,
    levels: Tensor,
) -> tuple[Weights, int]:
    """The same for one client of any network; ``layers`` are those that have a rule, or None."""
    client = _Client(cohort, row(weights, 0), variant)
    x, y, u = batch.inputs[0], batch.labels[0], levels[0]
    sums = None
    if layers is not None:
        score, magnitude = variant.measure
        sums = magnitudes(
            cohort, client.weights, layers, x, lambda logits: score(logits, y, u), magnitude
        )
    if sums is None:
        sums = client.image_by_image(x, y, u)
    return {n: t.unsqueeze(0) for n, t in sums.items() if n in variant.names}, len(x)


def _of_image_stack(
    cohort: Cohort, variant: _Way, weights: Weights, batch: Batch, levels: Tensor
) -> tuple[Weights, int]:
    """The same where one client's images are as fast in a stack as clients are."""
    assert cohort.network is not None  # ``_image_by_image``
    score, magnitude = variant.measure
    inputs, labels, levels = (t[0].unsqueeze(1) for t in (*batch, levels))  # [images, 1, ...]
    stack = ImageStack(row(weights, 0), variant.names, len(inputs), magnitude)
    with torch.enable_grad():
        sums = stack.sums_of(score(cohort.network(stack, inputs), labels, levels).sum())
    return {n: t.unsqueeze(0) for n, t in sums.items()}, len(inputs)


class _Client(NamedTuple):
    """One client while its images are measured by ``vmap``."""

    cohort: Cohort  # of it alone
    weights: Weights  # [...]
    variant: _Way

    def image_by_image(self, x: Tensor, y: Tensor, levels: Tensor) -> Weights:
        """Sum over images of each one's magnitude, for any network."""
        one = num_bytes({n: t for n, t in self.weights.items() if n in self.variant.names})
        at_once = max(1, GRADIENT_BYTES // one)
        total: Weights = {}
        for part in zip(x.split(at_once), y.split(at_once), levels.split(at_once), strict=True):
            apart = vmap(self._gradient)(*(t.unsqueeze(1) for t in part))
            for n, g in apart.items():
                total[n] = total.get(n, 0) + self.variant.measure.magnitude(g).sum(0)
        return total

    def _gradient(self, x: Tensor, y: Tensor, levels: Tensor) -> Weights:
        """Of the score by the parameters."""
        held = {n: t for n, t in self.weights.items() if n not in self.variant.names}
        # Under vmap no image can be copied channels last.
        cohort = replace(self.cohort, stacked=True)

        def value(params: Weights) -> Tensor:
            return self.variant.measure.score(cohort.forward(held | params, x), y, levels)

        gradient: Weights = grad(value)({n: t for n, t in self.weights.items() if n not in held})
        return gradient


def _images_at_once(client: Cohort, part: Part, way: _ImageByImage) -> int:
    """How many images' activations fit in memory's share, by the size of the first image."""
    [examples] = client.part(part)
    one = client.scaling(examples.inputs[:1].unsqueeze(0))
    size = ACTIVATIONS * one.numel() * one.element_size()
    return max(1, min(way.most, way.room // max(1, size)))


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
