"""Average linkage of points on a line, without the matrix of their distances.

Clusters on a line are always intervals, and the mean distance between the points of two intervals
is the difference of their means. The nearest two clusters are therefore neighbours, and a list of
means is enough.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 4096
"""More different values than this are put into so many equal steps of their range first."""

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class _Points(NamedTuple):
    """Different positions on the line, ascending, and the number of values at each."""

    at: Floats
    weight: Floats


def line_cuts(values: Floats, most: int, *, alone: bool) -> tuple[list[Labels], Labels]:
    """Agglomerative clustering of ``values`` [n] by average linkage, cut into 1, 2, ... groups.

    Exact for up to ``BINS`` different values. Equal values are never parted.

    Args:
        most: Groups in the finest cut.
        alone: Whether a value may be a group of its own; otherwise it joins its nearest neighbour.

    Returns:
        The cuts, each [points], int64: groups by position on the line, from 0. And the point of
        each value, [n]: ``cut[where]`` are the groups of the values.

    """
    points, where = _binned(values)
    cuts = []
    for starts in _merges(points, min(most, len(points.at))):
        bounds = np.zeros(len(points.at), dtype=np.int64)
        bounds[(starts if alone else _without_singles(points, starts))[1:]] = 1
        cuts.append(np.cumsum(bounds))
    return cuts, where


def _binned(values: Floats) -> tuple[_Points, Labels]:
    """The points, and the index of each value's point."""
    at, where, count = np.unique(values, return_inverse=True, return_counts=True)
    if len(at) > BINS:
        steps = (values - at[0]) / (at[-1] - at[0]) * BINS
        _, where, count = np.unique(
            np.minimum(steps.astype(np.int64), BINS - 1), return_inverse=True, return_counts=True
        )
        at = np.bincount(where, weights=values) / count
    return _Points(at, count.astype(np.float64)), where.astype(np.int64)


def _merges(points: _Points, most: int) -> list[NDArray[np.int64]]:
    """Where the clusters begin when there are 1, 2, ... ``most`` of them."""
    means, counts = points.at, points.weight
    begin = np.arange(len(means), dtype=np.int64)
    starts = []
    while True:
        if len(means) <= most:
            starts.append(begin)
        if len(means) == 1:
            return starts[::-1]
        i = int(np.diff(means).argmin())
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
