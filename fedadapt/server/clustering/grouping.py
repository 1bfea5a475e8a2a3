"""Group clients with similar data by their sparsity vectors alone: PFA's grouping.

Liu et al. 2021, section 3.3, gives two rules and no algorithm: a client near a reference is like
it, and clients equally far from it are like each other. The algorithm here is agglomerative
clustering with average linkage.
"""

import logging
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedadapt.errors import InputError, unknown
from fedadapt.server.clustering.ambiguity import is_aliased
from fedadapt.server.clustering.distances import Vectors, chunks, distances_to, farthest, mean_of
from fedadapt.server.clustering.number_of_clusters import group_means, shortest
from fedadapt.server.clustering.one_dimensional import line_cuts

EXACT_LIMIT = 2000  # clients compared with each other; a sample stands for more
MAX_GROUPS = 64  # the most groups that are looked for; more must be asked for

METHODS = ("efficient", "exact")

log = logging.getLogger(__name__)

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Grouping:
    """Groups of clients, in the order in which their vectors were given."""

    labels: Tensor  # [n], int64: groups count from 0, by their first client
    centroids: Tensor  # [G, q], float64: mean vector of each group
    distances: Tensor  # [n] to the reference; exact: [n, n], of the sample above EXACT_LIMIT
    reference: int | None  # the client all were compared with; None where exact was asked for
    method: Literal["efficient", "exact"]  # the one that made these groups
    aliased: bool  # one reference could not tell groups apart, so exact replaced efficient
    quality: float  # silhouette of the vectors in [-1, 1], of a sample if many; NaN for one group

    @property
    def num_groups(self) -> int:
        return len(self.centroids)

    def assign(self, vector: Tensor) -> int:
        """The group of a client that came later: the one with the nearest mean vector."""
        return int(nearest(self.centroids, vector[None])[0])


def group_clients(
    vectors: Tensor,
    *,
    groups: int | None = None,
    method: str = "efficient",
    seed: int = 0,
) -> Grouping:
    """Group clients by the Euclidean distances between their vectors.

    ``exact`` compares every pair. ``efficient`` compares all with one reference, and takes
    |s_i - s_j| for the distance of i and j, where s is the distance to it: n distances instead of
    n (n - 1) / 2. The reference is the client farthest from the mean of all: seen from the edge,
    fewer different clients are equally far than seen from the middle. The exact method takes over
    if a second reference (the client farthest from the first) gives other groups, or if a group
    falls into parts when it is measured once more from its own farthest member.

    Args:
        vectors: [n, q], finite, as the clients sent them.
        groups: Their number, or None for the one from 1 to min(n / 2, 64) with the shortest code
            (``number_of_clusters``). A client that would be alone joins the nearest group, if that
            leaves as many as asked for. Fewer than four clients are one group.
        method: ``efficient`` or ``exact``.
        seed: Of the sample that stands for more than 2000 clients where pairs are compared.

    Raises:
        InputError: vectors that are no finite matrix, an impossible number of groups.

    """
    checked = _checked(vectors, groups, method)
    if groups is None and len(checked) < 4:
        groups = 1  # two groups of two are the least to look for
    if method == "exact":
        return _exact(checked, groups, seed, None)
    reference = farthest(checked, mean_of(checked))
    distances = distances_to(checked, checked[reference])
    labels = _line_groups(checked, distances, groups, seed)
    opposite = distances_to(checked, checked[int(distances.argmax())])
    agreed = np.array_equal(labels, _line_groups(checked, opposite, groups, seed))
    if not agreed or is_aliased(checked, labels, groups):
        log.info("grouping: one reference client mixes up groups; comparing pairs instead")
        return _exact(checked, groups, seed, reference)
    return _grouping(checked, labels, distances, "efficient", reference, seed)


def nearest(centroids: Tensor, vectors: Tensor) -> Tensor:
    """Index of the nearest centroid, the first of equals: [m, q] -> [m], int64."""
    return torch.cdist(vectors.double(), centroids, compute_mode=_DIRECT).argmin(1)


_DIRECT = "donot_use_mm_for_euclid_dist"  # the fast way loses digits where vectors are close


def _checked(vectors: Tensor, groups: int | None, method: str) -> Vectors:
    if method not in METHODS:
        raise unknown("grouping: method", method, METHODS)
    array = vectors.detach().cpu().numpy() if isinstance(vectors, Tensor) else np.asarray(vectors)
    if array.ndim != 2 or 0 in array.shape or not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"grouping: vectors of shape {tuple(array.shape)} and type {array.dtype}; expected "
            "numbers [clients, channels], at least one of each"
        )
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise InputError(
            f"grouping: the vector of client {int(finite.argmin())} has a NaN or an infinity"
        )
    most = min(len(array), EXACT_LIMIT)
    if groups is not None and not 1 <= groups <= most:
        raise InputError(f"grouping: {groups} groups of {len(array)} clients; 1 to {most}")
    return array


def _exact(vectors: Vectors, groups: int | None, seed: int, reference: int | None) -> Grouping:
    """Average linkage on all pairs; above the limit on a sample, the others to the nearest mean."""
    from scipy.spatial.distance import pdist, squareform

    members = _sample(len(vectors), seed)
    sample = vectors[members].astype(np.float64)
    condensed = pdist(sample)
    sample_labels = _pair_groups(sample, condensed, groups)
    if len(members) < len(vectors):
        centroids = group_means(sample, sample_labels)
        labels = np.concatenate(
            [
                nearest(torch.from_numpy(centroids), torch.from_numpy(part)).numpy()
                for part in chunks(vectors)
            ]
        )
    else:
        labels = sample_labels
    matrix = squareform(condensed) if len(members) > 1 else np.zeros((1, 1))
    return _grouping(vectors, labels, matrix, "exact", reference, seed)


def _grouping(
    vectors: Vectors, labels: Labels, distances: NDArray[np.float64],
    method: Literal["efficient", "exact"], reference: int | None, seed: int,
) -> Grouping:  # fmt: skip
    ordered = by_first_client(labels)
    return Grouping(
        labels=torch.from_numpy(ordered),
        centroids=torch.from_numpy(group_means(vectors, ordered)),
        distances=torch.from_numpy(distances),
        reference=reference,
        method=method,
        aliased=method == "exact" and reference is not None,
        quality=_quality(vectors, ordered, seed),
    )


def _line_groups(
    vectors: Vectors, distances: NDArray[np.float64], groups: int | None, seed: int
) -> Labels:
    """Groups of clients by their distance to one reference, in the order of their first clients."""
    most = groups or min(len(vectors) // 2, MAX_GROUPS)
    cuts, where = line_cuts(distances, most, alone=groups is not None)
    if groups is not None or len(cuts) == 1:  # all alike
        return by_first_client(cuts[-1][where])
    members = _sample(len(vectors), seed)
    seen = [by_first_client(cut[where[members]]) for cut in cuts]
    return by_first_client(cuts[shortest(vectors[members].astype(np.float64), seen)][where])


def _pair_groups(
    vectors: NDArray[np.float64], condensed: NDArray[np.float64], groups: int | None
) -> Labels:
    """Cut the tree of average linkage into ``groups``, or where the code is shortest."""
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    count = len(vectors)
    one = np.zeros(count, dtype=np.int64)
    if count == 1 or groups == 1:
        return one
    tree = linkage(condensed, "average")
    if tree[-1, 2] == 0:  # all alike
        return one
    matrix = squareform(condensed)
    if groups is not None:
        return _cut_into(groups, tree, matrix)
    numbers = np.arange(2, min(count // 2, MAX_GROUPS) + 1)
    cuts = [_without_singles(c.astype(np.int64), matrix) for c in cut_tree(tree, numbers).T]
    candidates = [one, *cuts]
    return candidates[shortest(vectors, candidates)]


def _cut_into(groups: int, tree: NDArray[np.float64], matrix: NDArray[np.float64]) -> Labels:
    """Cut into so many groups, of at least two clients each where that is possible.

    Otherwise a client unlike all others would be a group, and two true groups would become one.
    """
    from scipy.cluster.hierarchy import cut_tree

    plain: Labels = cut_tree(tree, groups)[:, 0].astype(np.int64)
    for number in range(groups, min(len(matrix), groups + MAX_GROUPS)):
        labels = _without_singles(cut_tree(tree, number)[:, 0].astype(np.int64), matrix)
        if labels.max() + 1 == groups:
            return labels
    return plain


def _without_singles(labels: Labels, matrix: NDArray[np.float64]) -> Labels:
    """Each client that is alone joins the group that is nearest on average; labels from 0."""
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    while len(counts := np.bincount(labels)) > 1 and counts.min() == 1:
        alone = int(np.flatnonzero(counts[labels] == 1)[0])
        far = np.bincount(labels, weights=matrix[alone]) / counts
        far[labels[alone]] = np.inf
        labels[alone] = far.argmin()
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return labels


def by_first_client(labels: Labels) -> Labels:
    """The same groups, numbered from 0 in the order in which they first appear."""
    _, first, where = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[where].astype(np.int64)


def _sample(count: int, seed: int) -> Labels:
    """All, or ``EXACT_LIMIT`` of them drawn without replacement, ascending."""
    if count <= EXACT_LIMIT:
        return np.arange(count)
    generator = np.random.default_rng((seed, zlib.crc32(b"grouping")))
    return np.sort(generator.choice(count, EXACT_LIMIT, replace=False))


def _quality(vectors: Vectors, labels: Labels, seed: int) -> float:
    """Silhouette in the space of the vectors, however the groups were found."""
    from sklearn.metrics import silhouette_score

    members = _sample(len(labels), seed)
    sample_labels = labels[members]
    if not 2 <= len(np.unique(sample_labels)) < len(sample_labels):
        return float("nan")
    return float(silhouette_score(vectors[members].astype(np.float64), sample_labels))
