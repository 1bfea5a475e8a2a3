"""How good a model is on a client's adapt images, also one that was adapted to them."""

from dataclasses import replace

import numpy as np
import torch

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Cohort
from fedadapt.client.evaluation import Score, evaluate
from fedadapt.datasets.benchmark import Examples
from fedadapt.weights import Weights

FOLDS = 4
FEWEST = 2  # images to adapt to: batch norm cannot take statistics of one


def held_out_scores(
    cohort: Cohort,
    adaptation: Adaptation,
    received: Weights,
    adapted: Weights,
    pooled: Weights | None = None,
) -> list[Score]:
    """Score an adapted model on adapt images that it was not adapted to, client by client.

    An adaptation that does not read the adapt images is scored on all of them. For one that does,
    they are dealt into four folds: what it makes of the received model and three folds is scored on
    the fourth, and the four scores are pooled (Stone 1974, cross-validation). So the score is that
    of adapting to three quarters of the images. A client with three images has three folds; with
    fewer nothing can be held out, and the score is NaN, over no image.

    Args:
        cohort: The clients.
        adaptation: What made ``adapted``.
        received: The models that were adapted, [D, ...].
        adapted: What came of it, [D, ...].
        pooled: The pooled answers to the adaptation's query, [D, ...].

    """
    if not adaptation.reads_adapt:
        return evaluate(cohort, adapted, cohort.part("adapt"))
    sums = np.zeros((3, len(cohort)))  # right answers, losses, images
    orders = [
        cohort.generator(d, "held-out").permutation(len(split.adapt))
        for d, split in enumerate(cohort.splits)
    ]
    for fold in range(FOLDS):
        sizes = [(len(order[fold::FOLDS]), len(order)) for order in orders]
        members = [d for d, (few, every) in enumerate(sizes) if few and every - few >= FEWEST]
        if not members:
            continue
        held_out = [_rows(cohort.splits[d].adapt, orders[d][fold::FOLDS]) for d in members]
        others = [_without(cohort.splits[d].adapt, orders[d], fold) for d in members]
        part = _with_adapt(cohort, members, others)
        models = adaptation.adapt(part, _of(received, members), pooled and _of(pooled, members))
        for d, score in zip(members, evaluate(part, models, held_out), strict=True):
            count = score.num_examples
            sums[:, d] += score.accuracy * count, score.loss * count, count
    return [
        Score(right / count, loss / count, int(count)) if count else Score(np.nan, np.nan, 0)
        for right, loss, count in sums.T.tolist()
    ]


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
