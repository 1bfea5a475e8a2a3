"""Are clients that look equally far from one reference really alike? PFA's efficient grouping.

Clients equally far from one reference may be far from each other. Seen from the member of a group
that is farthest from its mean, they are not equally far: each group is measured once more.
"""

import numpy as np
from numpy.typing import NDArray

from fedadapt.server.clustering.distances import Vectors, distances_to, farthest, mean_of
from fedadapt.server.clustering.number_of_clusters import code_length, group_means

ENOUGH = 20000  # clients of a group that show whether it is one

Labels = NDArray[np.int64]


def is_aliased(vectors: Vectors, labels: Labels, groups: int | None) -> bool:
    """Does a group fall into two, or can that not be told: of one client, or one group of all.

    Its parts are at least half as far apart as the two nearest groups; or, where the number of
    groups was looked for, the vectors take fewer bits if it is two, be all channels independent.
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
        mine = vectors[members[:: -(-len(members) // ENOUGH)]].astype(np.float64)
        far = _far_part(mine)
        if not far.any():
            continue
        if np.linalg.norm(mine[far].mean(0) - mine[~far].mean(0)) >= between / 2:
            return True
        if groups is None and _is_two(mine, far):
            return True
    return False


def _is_two(vectors: NDArray[np.float64], far: NDArray[np.bool_]) -> bool:
    one, two = np.zeros(len(far), dtype=np.int64), far.astype(np.int64)
    numbers = vectors.shape[1]
    return code_length(vectors, two, numbers) < code_length(vectors, one, numbers)


def _far_part(vectors: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Who is far from the one that is farthest from the mean: [n]. Nobody of less than four."""
    if len(vectors) < 4:
        return np.zeros(len(vectors), dtype=np.bool_)
    distances = distances_to(vectors, vectors[farthest(vectors, mean_of(vectors))])
    return np.asarray(distances > _threshold(distances))


def _threshold(values: NDArray[np.float64]) -> float:
    """What parts values into two, of two at least, with the most variance between (Otsu 1979)."""
    ordered = np.sort(values)
    low = np.arange(2, len(values) - 1)  # how many are below
    sums = np.cumsum(ordered)
    below, above = sums[low - 1] / low, (sums[-1] - sums[low - 1]) / (len(values) - low)
    cut = int(((above - below) ** 2 * low * (len(values) - low)).argmax())
    return float(ordered[low[cut] - 1])
