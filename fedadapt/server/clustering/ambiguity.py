"""Check groups that were found by the distance to one reference: PFA's efficient grouping.

Clients that are equally far from one reference may be far from each other. Their distances to
another point differ: every group is measured once more, from its member farthest from its mean.
"""

import numpy as np
from numpy.typing import NDArray

from fedadapt.server.clustering.distances import Vectors, distances_to, farthest, mean_of
from fedadapt.server.clustering.number_of_clusters import code_length, group_means

ENOUGH = 20000  # clients of a group that are looked at; more would not change the answer

Labels = NDArray[np.int64]


def is_aliased(vectors: Vectors, labels: Labels, groups: int | None) -> bool:
    """Whether a group falls into two parts, or is too small to tell (one client; one group of all).

    A group falls into two parts if the means of the parts are at least half as far apart as those
    of the two nearest groups. If the number of groups was to be found, it also does if two groups
    have the shorter code, with all channels counted as independent.

    Args:
        vectors: [n, q].
        labels: [n], the groups as found by one reference.
        groups: Their number as it was asked for; None if it was to be found.

    """
    from scipy.spatial.distance import pdist

    means = group_means(vectors, labels)
    if len(means) == 1:
        return groups != 1 and bool((vectors != vectors[0]).any())
    if len(means) < (groups or 0) or np.bincount(labels).min() == 1:
        return True
    between = pdist(means).min()
    for group in range(len(means)):
        members = np.flatnonzero(labels == group)
        sample = vectors[members[:: -(-len(members) // ENOUGH)]].astype(np.float64)
        far = _far_part(sample)
        if not far.any():
            continue
        if np.linalg.norm(sample[far].mean(0) - sample[~far].mean(0)) >= between / 2:
            return True
        if groups is None and _is_two(sample, far):
            return True
    return False


def _is_two(vectors: NDArray[np.float64], far: NDArray[np.bool_]) -> bool:
    one, two = np.zeros(len(far), dtype=np.int64), far.astype(np.int64)
    numbers = vectors.shape[1]
    return code_length(vectors, two, numbers) < code_length(vectors, one, numbers)


def _far_part(vectors: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the vectors far from the one that is farthest from the mean: [n]; none of below 4."""
    if len(vectors) < 4:
        return np.zeros(len(vectors), dtype=np.bool_)
    distances = distances_to(vectors, vectors[farthest(vectors, mean_of(vectors))])
    return np.asarray(distances > _threshold(distances))


def _threshold(values: NDArray[np.float64]) -> float:
    """The value that divides values in two, with the most variance between the parts (Otsu 1979).

    Each part has at least two values.
    """
    ordered = np.sort(values)
    low = np.arange(2, len(values) - 1)  # how many are below
    sums = np.cumsum(ordered)
    below, above = sums[low - 1] / low, (sums[-1] - sums[low - 1]) / (len(values) - low)
    cut = int(((above - below) ** 2 * low * (len(values) - low)).argmax())
    return float(ordered[low[cut] - 1])
