"""What a model says of a client's adapt images, also one that was adapted to them."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Cohort
from fedadapt.client.evaluation import logits_of
from fedadapt.datasets.benchmark import Examples
from fedadapt.weights import Weights

FOLDS = 4
FEWEST = 2  # images to adapt to: batch norm cannot take statistics of one


class HeldOut(NamedTuple):
    """What a model says of images that it was not adapted to; of some clients of none."""

    logits: Tensor  # [m, num_classes]
    labels: Tensor  # [m]


def held_out_logits(
    cohort: Cohort,
    adaptation: Adaptation,
    received: Weights,
    adapted: Weights,
    pooled: Weights | None = None,
) -> list[HeldOut]:
    """Return an adapted model's logits on adapt images that it was not adapted to, by client.

    An adaptation that does not read the adapt images is tried on all of them. For one that does,
    they are dealt into four folds: what it makes of the received model and three folds is tried on
    the fourth, and the answers are joined (Stone 1974, cross-validation). So they are those of a
    model that is adapted to three quarters of the images. A client with three images has three
    folds; with fewer nothing can be held out, and its answers are of no image.

    Args:
        cohort: The clients.
        adaptation: What made ``adapted``.
        received: The models that were adapted, [D, ...].
        adapted: What came of it, [D, ...].
        pooled: The pooled answers to the adaptation's query, [D, ...].

    """
    images = cohort.part("adapt")
    if not adaptation.reads_adapt:
        logits = logits_of(cohort, adapted, images)
        return [HeldOut(z, part.labels) for z, part in zip(logits, images, strict=True)]
    orders = [
        cohort.generator(d, "held-out").permutation(len(part)) for d, part in enumerate(images)
    ]
    answers: list[list[HeldOut]] = [[] for _ in orders]
    for fold in range(FOLDS):
        sizes = [(len(order[fold::FOLDS]), len(order)) for order in orders]
        members = [d for d, (few, every) in enumerate(sizes) if few and every - few >= FEWEST]
        if not members:
            continue
        held_out = [_rows(images[d], orders[d][fold::FOLDS]) for d in members]
        part = _with_adapt(cohort, members, [_without(images[d], orders[d], fold) for d in members])
        models = adaptation.adapt(
            adaptation.images_of(part), _of(received, members), pooled and _of(pooled, members)
        )
        logits = logits_of(part, models, held_out)
        for d, z, test in zip(members, logits, held_out, strict=True):
            answers[d].append(HeldOut(z, test.labels))
    return [_joined(folds, cohort) for folds in answers]


def _joined(folds: list[HeldOut], cohort: Cohort) -> HeldOut:
    if not folds:
        labels = cohort.splits[0].adapt.labels
        return HeldOut(labels.new_zeros((0, 1), dtype=torch.float32), labels[:0])
    return HeldOut(
        torch.cat([fold.logits for fold in folds]), torch.cat([fold.labels for fold in folds])
    )


def _with_adapt(cohort: Cohort, members: list[int], adapt: list[Examples]) -> Cohort:
    """The cohort of the clients at positions ``members``, with other adapt images."""
    splits = [
        cohort.splits[d]._replace(adapt=images) for d, images in zip(members, adapt, strict=True)
    ]
    return replace(
        cohort,
        clients=tuple(cohort.clients[d] for d in members),
        splits=tuple(splits),
        states=tuple(cohort.states[d] for d in members) if cohort.states else (),
        stacked=cohort.stacked and len(members) > 1,
    )


def _of(weights: Weights, members: list[int]) -> Weights:
    return {n: t[members] for n, t in weights.items()}


def _without(images: Examples, order: np.ndarray, fold: int) -> Examples:
    """All images but those of one fold."""
    return _rows(images, np.concatenate([order[k::FOLDS] for k in range(FOLDS) if k != fold]))


def _rows(images: Examples, rows: np.ndarray) -> Examples:
    chosen = torch.from_numpy(np.sort(rows)).to(images.labels.device)
    return Examples(images.inputs[chosen], images.labels[chosen])
