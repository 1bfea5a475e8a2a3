"""Metrics in which every class counts once, however rare: balanced accuracy, F1 and AUC.

Of a client whose test has few images of some class, accuracy says little about that class.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NUMBERS_AT_ONCE = 2**22  # that are sorted: bounds memory; results do not depend on it


class ClassMetrics(NamedTuple):
    """The metrics of some clients, each [D]; the definitions are those of scikit-learn."""

    balanced_accuracy: Floats  # mean recall over the classes that a client has images of
    f1: Floats  # mean F1 score over the classes that it has, or is said to have, images of
    auc: Floats  # mean area under the ROC curve, each class against the rest; NaN of one class


def class_metrics(logits: Floats, labels: Ints, sizes: Sequence[int]) -> ClassMetrics:
    """Return the metrics of clients whose images lie one after the other.

    Classes are told apart by the logits' probabilities. A class counts for the AUC of a client that
    has images of it and of others. Of a client with logits that are not finite it is NaN.

    Args:
        logits: [N, C].
        labels: [N].
        sizes: The number of images of each client, [D], in all N; none is 0.

    """
    count, num_classes = len(sizes), logits.shape[1]
    owners = np.repeat(np.arange(count), sizes)

    def counted(classes: Ints, which: NDArray[np.bool_] | None = None) -> Floats:
        places = owners * num_classes + classes
        places = places if which is None else places[which]
        return np.bincount(places, minlength=count * num_classes).reshape(count, -1).astype(float)

    predicted = logits.argmax(1)
    hits = counted(labels, predicted == labels)
    support, said = counted(labels), counted(predicted)
    return ClassMetrics(
        _mean_of(hits, support),
        _mean_of(2 * hits, support + said),
        _auc(logits, labels, np.asarray(sizes), support),
    )


def _mean_of(part: Floats, whole: Floats) -> Floats:
    """The mean over classes of part / whole, each [D, C], where there is a whole."""
    has = whole > 0
    return np.where(has, part / np.where(has, whole, 1), 0.0).sum(1) / has.sum(1)


def _auc(logits: Floats, labels: Ints, sizes: Ints, support: Floats) -> Floats:
    """Of each client, [D]: the share of pairs of images that are in the right order, ties half.

    It is that of Mann and Whitney (1947): from the sum of the ranks of a class's images.
    """
    count, num_classes = support.shape
    finite = np.asarray(np.isfinite(logits).all(1))
    shifted = np.where(finite[:, None], logits, 0.0)
    shifted = np.exp(shifted - shifted.max(1, keepdims=True))
    probabilities = np.ascontiguousarray((shifted / shifted.sum(1, keepdims=True)).T)  # [C, N]
    sums = np.zeros((count, num_classes))
    # Images of a client are a row, filled up at its end with what is sorted behind them. Clients
    # are taken by size, so that little is filled up.
    starts = np.cumsum(sizes) - sizes
    for clients in _alike(sizes, num_classes):
        places = np.arange(sizes[clients[-1]])
        filled = places >= sizes[clients, None]  # [d, n]
        rows = np.where(filled, 0, starts[clients, None] + places)
        own = np.where(filled, -1, labels[rows])
        at_once = max(1, NUMBERS_AT_ONCE // rows.size)
        for first in range(0, num_classes, at_once):
            some = probabilities[first : first + at_once]
            values = np.where(filled, np.inf, some[:, rows])  # [c, d, n]
            order = values.argsort(axis=2)
            ranks = _ranks(np.take_along_axis(values, order, 2))
            classes = first + np.arange(len(some))
            is_own = np.take_along_axis(own[None], order, 2) == classes[:, None, None]
            sums[clients, first : first + len(some)] = np.einsum("cdn,cdn->dc", is_own, ranks)
    others = support.sum(1, keepdims=True) - support
    pairs = support * others
    areas = (sums - support * (support + 1) / 2) / np.where(pairs > 0, pairs, 1)
    has = pairs > 0
    broken = np.add.reduceat(~finite, starts) > 0
    means = np.where(has, areas, 0.0).sum(1) / np.maximum(1, has.sum(1))
    return np.where(has.any(1) & ~broken, means, np.nan)


def _alike(sizes: Ints, num_classes: int) -> Iterator[Ints]:
    """Yield portions of clients, ascending by size, each at most twice as large as its first."""
    order = np.argsort(sizes, kind="stable")
    first = 0
    while first < len(order):
        least = sizes[order[first]]
        last = int(np.searchsorted(sizes[order], 2 * least, "right"))
        most = max(1, NUMBERS_AT_ONCE // int(2 * least * num_classes))
        yield order[first : min(last, first + most)]
        first = min(last, first + most)


def _ranks(values: Floats) -> Floats:
    """Ranks from 1 of values that are sorted along the last axis; equal ones share their mean.

    Infinite values, which nobody counts, need no mean.
    """
    length = values.shape[-1]
    places = np.arange(length)
    differ = values[..., 1:] != values[..., :-1]
    if (differ | np.isinf(values[..., 1:])).all():
        return np.broadcast_to(places + 1.0, values.shape)
    edge = np.ones((*values.shape[:-1], 1), bool)
    begins, ends = np.concatenate([edge, differ], -1), np.concatenate([differ, edge], -1)
    first = np.maximum.accumulate(np.where(begins, places, 0), axis=-1)
    last = np.minimum.accumulate(np.where(ends, places, length)[..., ::-1], axis=-1)[..., ::-1]
    return (first + last) / 2 + 1
