"""The number of groups: the one that describes the clients' vectors in the shortest code.

The rule is a Bayesian information criterion, as in X-means (Pelleg & Moore 2000): groups are
spherical Gaussians of one variance v, each free number costs (log n) / 2, and every client costs
the name of its group. Two things differ from X-means:

* Channels go on and off together, so a vector holds fewer independent numbers than channels
  (``independent``). The code counts those.
* The likelihood is taken at the unbiased variance, which divides by n - G and not by n, and its
  quadratic term is left out. That term is M (n - G) / 2 for M independent numbers, so leaving it
  out adds 1/2 for each number of a group's mean: a number costs (1 + log n) / 2. The scatter inside
  real kinds is neither spherical nor Gaussian, and a criterion without this surcharge divides them
  too often. docs/pfa.md compares the three rules on made-up and on real vectors.

The silhouette prefers the widest gap, so of nested kinds (animals and vehicles; photos, paintings
and sketches) the coarse ones. This rule goes on to the finest kinds that differ by more than they
scatter.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EXACT = 1e-12  # scatter below this share of all variance counts as this share

Vectors = NDArray[np.float64]  # [n, q]
Labels = NDArray[np.int64]  # [n], from 0, none left out


def shortest(vectors: Vectors, candidates: Sequence[Labels]) -> int:
    """Index of the grouping with the shortest code, the first of equals.

    Args:
        candidates: The last one is the finest: its scatter inside groups says how many numbers of a
            vector are independent.

    """
    numbers = independent(vectors, candidates[-1])
    costs = [code_length(vectors, labels, numbers) for labels in candidates]
    return int(np.argmin(costs))


def code_length(vectors: Vectors, labels: Labels, numbers: float) -> float:
    """Length in nats of n vectors in G groups, up to a constant.

    n M / 2 log v - sum_g n_g log(n_g / n) + (G M + 1) / 2 log n, where v is the unbiased variance
    inside the groups, a mean over channels. The first term is minus the log-likelihood of the
    vectors without its quadratic term, see above.

    Args:
        numbers: M, the independent numbers in a vector.

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
    """Count the independent numbers in the scatter inside groups, from 1 to q.

    tr(S)^2 / tr(S^2) of its covariance S: q where all channels scatter alike and independently. The
    estimate of tr(S^2) is corrected for the bias of few clients (Srivastava 2005, eq. 2.1).
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
