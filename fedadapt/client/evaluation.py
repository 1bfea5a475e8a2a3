"""How good a model is on a client: accuracy and loss, in eval mode, nothing moved."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedadapt.client.class_metrics import class_metrics
from fedadapt.client.cohort import Cohort
from fedadapt.datasets.benchmark import Examples
from fedadapt.models.mode import evaluating
from fedadapt.weights import Weights, is_shared, row

NUMBERS_AT_ONCE = 512 * 3 * 32 * 32  # of images: bounds memory; results do not depend on it


class Score(NamedTuple):
    accuracy: float  # share of right answers, in [0, 1]
    loss: float  # mean cross-entropy, nats
    num_examples: int
    balanced_accuracy: float = math.nan  # these three: see ``class_metrics``
    f1: float = math.nan
    auc: float = math.nan


def evaluate(cohort: Cohort, weights: Weights, tests: Sequence[Examples]) -> list[Score]:
    """Score row d of ``weights`` on ``tests[d]``, for every client of the cohort."""
    return scores(logits_of(cohort, weights, tests), [test.labels for test in tests])


def logits_of(cohort: Cohort, weights: Weights, tests: Sequence[Examples]) -> list[Tensor]:
    """Return the logits [N, num_classes] of row d of ``weights`` on ``tests[d]``, by client."""
    with torch.no_grad(), evaluating(cohort.model):
        if is_shared(weights):
            return _logits_of_one(cohort, row(weights, 0), tests)
        if cohort.stacked:
            return _logits_stacked(cohort, weights, tests)
        return [
            _logits(cohort, {n: t[d] for n, t in weights.items()}, test.inputs)
            for d, test in enumerate(tests)
        ]


def scores(logits_by_client: Sequence[Tensor], labels_by_client: Sequence[Tensor]) -> list[Score]:
    """Return the scores of each client's logits [N, num_classes] on its labels [N]."""
    logits, labels = torch.cat(list(logits_by_client)), torch.cat(list(labels_by_client))
    sizes = [len(own) for own in labels_by_client]
    lengths = torch.tensor(sizes, device=labels.device)
    # A diverged model has no argmax worth counting: its loss says so.
    right = (logits.argmax(1) == labels).double()
    exact = logits.double()
    # `cross_entropy` takes four times as long where there are few classes.
    loss = exact.logsumexp(1) - exact.gather(1, labels.unsqueeze(1)).squeeze(1)
    means = [torch.segment_reduce(x, "mean", lengths=lengths).tolist() for x in (right, loss)]
    by_class = class_metrics(exact.cpu().numpy(), labels.cpu().numpy(), sizes)
    columns = (column.tolist() for column in by_class)
    return [Score(*values) for values in zip(*means, sizes, *columns, strict=True)]


def _logits(cohort: Cohort, model: Weights, inputs: Tensor) -> Tensor:
    parts = inputs.split(_at_once(inputs))
    return torch.cat([cohort.forward(model, cohort.scaling(part)) for part in parts])


def _at_once(images: Tensor) -> int:
    """How many of these images [N, ...] go through a network together."""
    return max(1, NUMBERS_AT_ONCE // max(1, images.shape[1:].numel()))


def _logits_of_one(cohort: Cohort, model: Weights, tests: Sequence[Examples]) -> list[Tensor]:
    if all(test is tests[0] for test in tests):  # the global test: once for all
        return [_logits(cohort, model, tests[0].inputs)] * len(tests)
    together = torch.cat([test.inputs for test in tests])
    return list(_logits(cohort, model, together).split([len(test) for test in tests]))


def _logits_stacked(cohort: Cohort, weights: Weights, tests: Sequence[Examples]) -> list[Tensor]:
    """All clients at once; shorter tests are filled up with blanks, which eval mode ignores."""
    longest = max(len(test) for test in tests)
    blank = tests[0].inputs.new_zeros((len(tests), longest, *tests[0].inputs.shape[1:]))
    for d, test in enumerate(tests):
        blank[d, : len(test)] = test.inputs

    portion = max(1, _at_once(tests[0].inputs) // len(tests))
    parts = [cohort.logits(weights, cohort.scaling(part)) for part in blank.split(portion, dim=1)]
    return [z[: len(test)] for z, test in zip(torch.cat(parts, dim=1), tests, strict=True)]
