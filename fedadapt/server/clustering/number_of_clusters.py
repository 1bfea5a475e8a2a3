"""How many groups there are: as many as describe the clients' vectors in fewest bits.

Bayesian information criterion of X-means (Pelleg & Moore 2000): groups are spherical Gaussians of
one variance, and every client also costs the bits that name its group. Ours: channels go on and off
together, so a vector holds fewer independent numbers than channels (``independent``).

Silhouette would prefer the widest gap, so of nested kinds (animals and vehicles; photos, paintings
and sketches) the coarse ones. This goes on to the finest that differ by more than they scatter.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EXACT = 1e-12  # of all variance: less is none

Vectors = NDArray[np.float64]  # [n, q]
Labels = NDArray[np.int64]  # [n], from 0, none left out


def shortest(vectors: Vectors, candidates: Sequence[Labels]) -> int:
    """Which of several groupings costs least, the first of equals; the last is the finest."""
    numbers = independent(vectors, candidates[-1])
    costs = [code_length(vectors, labels, numbers) for labels in candidates]
    return int(np.argmin(costs))


def code_length(vectors: Vectors, labels: Labels, numbers: float) -> float:
    """Minus log likelihood of ``labels`` and vectors, and half a log n for every free number.

    Args:
        numbers: Independent ones in a vector.

    """
    count, channels = vectors.shape
    members = np.bincount(labels)
    groups = len(members)
    if groups == count:
        return np.inf
    everything = vectors - vectors.mean(axis=0)
    means = group_means(everything, labels)
    total = float((everything**2).sum())
    within = max(total - float(members @ (means**2).sum(axis=1)), EXACT * total)
    variance = within / (channels * (count - groups))
    names = -float(members @ np.log(members / count))
    free = groups * numbers + 1
    return float(count * numbers / 2 * np.log(variance) + names + free / 2 * np.log(count))


def independent(vectors: Vectors, labels: Labels) -> float:
    """How many independent numbers the scatter inside groups consists of, 1 to q.

    tr(S)^2 / tr(S^2) of its covariance, q where all channels scatter alike and on their own; the
    square without the bias that few clients bring (Srivastava 2005, eq. 2.1).
    """
    scatter = vectors - group_means(vectors, labels)[labels]
    freedom = len(vectors) - (int(labels.max()) + 1)
    channels = vectors.shape[1]
    trace = float((scatter**2).sum()) / freedom if freedom else 0.0
    if freedom < 2 or trace == 0:
        return float(channels)
    square = float(((scatter.T @ scatter) ** 2).sum()) / freedom**2
    unbiased = (square - trace**2 / freedom) * freedom**2 / ((freedom - 1) * (freedom + 2))
    return float(np.clip(trace**2 / unbiased, 1, channels)) if unbiased > 0 else float(channels)


def group_means(vectors: NDArray[np.floating], labels: Labels) -> NDArray[np.float64]:
    """[G, q]."""
    sums = [np.bincount(labels, weights=column) for column in vectors.T]
    return np.asarray(np.stack(sums, axis=1) / np.bincount(labels)[:, None])
