"""Average linkage of points on a line, without their n x n distances.

Clusters on a line stay intervals, and the mean distance between the points of two intervals is the
difference of their means. So the nearest two are always neighbours, and a list of means is enough.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 4096
"""More different values than this are put into so many equal steps of their range first."""

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class _Points(NamedTuple):
    """Different places on the line, ascending, and how many stand at each."""

    at: Floats
    weight: Floats


def line_groups(values: Floats, groups: int | None, most: int) -> Labels:
    """Agglomerative clustering of ``values`` [n] by average linkage.

    Exact for up to ``BINS`` different values. Equal values are never parted.

    Args:
        groups: Where to cut, or None: into the number from 2 to min(n / 2, ``most``) with the best
            silhouette, after those that are alone have joined their nearest neighbours.
        most: Groups to look for at most.

    Returns:
        [n], int64: groups by position on the line, from 0.

    """
    points, where = _binned(values)
    wanted = min(groups or min(len(values) // 2, most), len(points.at))
    starts, heights = _merges(points, wanted)
    if groups is None:
        best = (-np.inf, 0.0)
        chosen = starts[0]
        for cut in range(2, wanted + 1):
            candidate = _without_singles(points, starts[cut - 1])
            if len(candidate) < 2:
                continue
            # Of equally good cuts, the one across the widest step of the tree.
            gap = heights[cut - 1] - (heights[cut] if cut < len(heights) else 0.0)
            merit = (round(_silhouette(points, candidate), 9), gap)
            if merit > best:
                best, chosen = merit, candidate
    else:
        chosen = starts[wanted - 1]
    bounds = np.zeros(len(points.at), dtype=np.int64)
    bounds[chosen[1:]] = 1
    return np.cumsum(bounds)[where]


def _binned(values: Floats) -> tuple[_Points, Labels]:
    """The points, and which of them each value is at."""
    at, where, count = np.unique(values, return_inverse=True, return_counts=True)
    if len(at) > BINS:
        steps = (values - at[0]) / (at[-1] - at[0]) * BINS
        _, where, count = np.unique(
            np.minimum(steps.astype(np.int64), BINS - 1), return_inverse=True, return_counts=True
        )
        at = np.bincount(where, weights=values) / count
    return _Points(at, count.astype(np.float64)), where.astype(np.int64)


def _merges(points: _Points, most: int) -> tuple[list[NDArray[np.int64]], list[float]]:
    """Where the clusters begin when there are 1, 2, ... ``most`` of them.

    Also the height of the merge that leads from k clusters to k - 1; infinite for k = 1. One height
    more than there are cuts, where there is one.
    """
    means, counts = points.at, points.weight
    begin = np.arange(len(means), dtype=np.int64)
    starts, heights = [], []
    while True:
        gaps = np.diff(means)
        i = int(gaps.argmin()) if len(gaps) else 0
        if len(means) <= most:
            starts.append(begin)
        if len(means) <= most + 1:
            heights.append(float(gaps[i]) if len(gaps) else np.inf)
        if not len(gaps):
            return starts[::-1], heights[::-1]
        both = counts[i] + counts[i + 1]
        middle = (counts[i] * means[i] + counts[i + 1] * means[i + 1]) / both
        means, counts = np.delete(means, i + 1), np.delete(counts, i + 1)
        begin = np.delete(begin, i + 1)
        means[i], counts[i] = middle, both


def _without_singles(points: _Points, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each cluster of one joins the neighbour whose mean is nearer."""
    while len(starts) > 1:
        counts = np.add.reduceat(points.weight, starts)
        if counts.min() > 1:
            break
        means = np.add.reduceat(points.weight * points.at, starts) / counts
        i = int(counts.argmin())
        left = means[i] - means[i - 1] if i > 0 else np.inf
        right = means[i + 1] - means[i] if i + 1 < len(means) else np.inf
        starts = np.delete(starts, i if left <= right else i + 1)
    return starts


def _silhouette(points: _Points, starts: NDArray[np.int64]) -> float:
    """Mean over all values of (b - a) / max(a, b): a within the own cluster, b to the next one.

    Rousseeuw 1987. Sums of distances come from running sums: the points are in order.
    """
    at, count = points.at, points.weight
    clusters = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(at))))
    number = np.add.reduceat(count, starts)
    total = np.add.reduceat(count * at, starts)
    # Of the own cluster, strictly to the left of each point.
    number_left = (np.cumsum(count) - count) - (np.cumsum(number) - number)[clusters]
    total_left = (np.cumsum(count * at) - count * at) - (np.cumsum(total) - total)[clusters]
    number_right = number[clusters] - number_left
    within = at * (number_left - number_right) + total[clusters] - 2 * total_left
    a = within / np.maximum(number[clusters] - 1, 1)
    means = np.concatenate([[-np.inf], total / number, [np.inf]])
    b = np.minimum(at - means[clusters], means[clusters + 2] - at)
    larger = np.maximum(a, b)
    score = np.divide(b - a, larger, out=np.zeros_like(a), where=larger > 0)
    score[number[clusters] == 1] = 0.0
    return float((score * count).sum() / count.sum())
