"""Which devices have similar data, told from their sparsity vectors alone: PFA's grouping.

Liu et al. 2021, section 3.3, gives two rules (near to a reference device is like it; equally far
from it is like each other) and no algorithm. Ours: agglomerative clustering, average linkage.
"""

import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedadapt.errors import InputError, unknown
from fedadapt.server.line import line_groups

EXACT_LIMIT = 2000  # devices compared with each other; more are represented by a sample
MAX_GROUPS = 64  # that are looked for; more must be asked for
CHUNK = 65536  # devices measured at once: bounds memory
ENOUGH = 20000  # devices of a group that show whether it is one

METHODS = ("efficient", "exact")

log = logging.getLogger(__name__)

Vectors = NDArray[np.floating]  # [n, q]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Grouping:
    """Groups of devices, in the order in which their vectors were given."""

    labels: Tensor  # [n], int64: groups count from 0, by their first device
    centroids: Tensor  # [G, q], float64: mean vector of each group
    distances: Tensor  # [n] to the reference; exact: [n, n], of the sample above EXACT_LIMIT
    reference: int | None  # the device all were compared with; None where exact was asked for
    method: Literal["efficient", "exact"]  # what it ended with
    aliased: bool  # one reference could not tell two groups apart: exact instead of efficient
    quality: float  # silhouette of the vectors in [-1, 1], of a sample if many; NaN for one group

    @property
    def num_groups(self) -> int:
        return len(self.centroids)

    def assign(self, vector: Tensor) -> int:
        """The group of a device that came later: the nearest mean vector; nothing is regrouped."""
        return int(nearest(self.centroids, vector[None])[0])


def group_devices(
    vectors: Tensor,
    *,
    groups: int | None = None,
    method: str = "efficient",
    seed: int = 0,
) -> Grouping:
    """Group devices by the Euclidean distances between their vectors.

    ``exact`` compares every pair. ``efficient`` compares all with one reference, and takes
    |s_i - s_j| for the distance of i and j, where s is the distance to it: n distances instead of
    n (n - 1) / 2. The reference is the device farthest from the mean of all: from the edge fewer
    different devices look equally far than from the middle. Each group found is then measured once
    more, from its own farthest member; if it falls into parts that lie as far apart as groups do,
    the exact method takes over.

    Args:
        vectors: [n, q], finite, as the devices sent them.
        groups: Their number, or None: the one of 2 to min(n / 2, 64) with the best silhouette.
            A device that would be alone joins the nearest group, if that leaves as many as asked
            for. Fewer than four devices are one group.
        method: ``efficient`` or ``exact``.
        seed: Of the sample that stands for more than 2000 devices where pairs are compared.

    Raises:
        InputError: vectors that are no finite matrix, an impossible number of groups.

    """
    given = _checked(vectors, groups, method)
    if groups is None and len(given) < 4:
        groups = 1  # two groups of two are the least to look for
    if method == "exact":
        return _exact(given, groups, seed, None)
    reference = _farthest(given, _mean(given))
    distances = _distances(given, given[reference])
    labels = line_groups(distances, groups, MAX_GROUPS)
    if _is_aliased(given, labels, groups):
        log.info("grouping: one reference device mixes up groups; comparing pairs instead")
        return _exact(given, groups, seed, reference)
    return _grouping(given, labels, distances, "efficient", reference, seed)


def nearest(centroids: Tensor, vectors: Tensor) -> Tensor:
    """Index of the nearest centroid, the first of equals: [m, q] -> [m], int64."""
    return torch.cdist(vectors.double(), centroids, compute_mode=_DIRECT).argmin(1)


_DIRECT = "donot_use_mm_for_euclid_dist"  # the fast way loses digits where vectors are close


def _checked(vectors: Tensor, groups: int | None, method: str) -> Vectors:
    if method not in METHODS:
        raise unknown("grouping: method", method, METHODS)
    found = vectors.detach().cpu().numpy() if isinstance(vectors, Tensor) else np.asarray(vectors)
    if found.ndim != 2 or 0 in found.shape or not np.issubdtype(found.dtype, np.floating):
        raise InputError(
            f"grouping: vectors of shape {tuple(found.shape)} and type {found.dtype}; expected "
            "numbers [devices, channels], at least one of each"
        )
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        raise InputError(
            f"grouping: the vector of device {int(finite.argmin())} has a NaN or an infinity"
        )
    most = min(len(found), EXACT_LIMIT)
    if groups is not None and not 1 <= groups <= most:
        raise InputError(f"grouping: {groups} groups of {len(found)} devices; 1 to {most}")
    return found


def _exact(vectors: Vectors, groups: int | None, seed: int, reference: int | None) -> Grouping:
    """Average linkage on all pairs; above the limit on a sample, the others to the nearest mean."""
    from scipy.spatial.distance import pdist, squareform

    members = _sample(len(vectors), seed)
    condensed = pdist(vectors[members].astype(np.float64))
    found = _pair_groups(condensed, len(members), groups)
    if len(members) < len(vectors):
        centroids = _centroids(vectors[members], found)
        labels = np.concatenate(
            [
                nearest(torch.from_numpy(centroids), torch.from_numpy(part)).numpy()
                for part in _parts(vectors)
            ]
        )
    else:
        labels = found
    matrix = squareform(condensed) if len(members) > 1 else np.zeros((1, 1))
    return _grouping(vectors, labels, matrix, "exact", reference, seed)


def _grouping(
    vectors: Vectors, labels: Labels, distances: NDArray[np.float64],
    method: Literal["efficient", "exact"], reference: int | None, seed: int,
) -> Grouping:  # fmt: skip
    ordered = by_first_device(labels)
    return Grouping(
        labels=torch.from_numpy(ordered),
        centroids=torch.from_numpy(_centroids(vectors, ordered)),
        distances=torch.from_numpy(distances),
        reference=reference,
        method=method,
        aliased=method == "exact" and reference is not None,
        quality=_quality(vectors, ordered, seed),
    )


def _pair_groups(condensed: NDArray[np.float64], count: int, groups: int | None) -> Labels:
    """Cut the tree of average linkage: at ``groups``, or where the silhouette is best."""
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform
    from sklearn.metrics import silhouette_score

    if count == 1 or groups == 1:
        return np.zeros(count, dtype=np.int64)
    tree = linkage(condensed, "average")
    if tree[-1, 2] == 0:  # all alike
        return np.zeros(count, dtype=np.int64)
    matrix = squareform(condensed)
    if groups is not None:
        return _cut_into(groups, tree, matrix)
    numbers = np.arange(2, min(count // 2, MAX_GROUPS) + 1)
    chosen, best = np.zeros(count, dtype=np.int64), (-np.inf, 0.0)
    for number, labels in zip(numbers, cut_tree(tree, numbers).T, strict=True):
        candidate = _without_singles(labels.astype(np.int64), matrix)
        if candidate.max() < 1:
            continue
        # Of equally good cuts, the one across the widest step of the tree.
        gap = tree[count - number, 2] - tree[count - number - 1, 2]
        merit = (round(silhouette_score(matrix, candidate, metric="precomputed"), 9), gap)
        if merit > best:
            chosen, best = candidate, merit
    return chosen


def _cut_into(groups: int, tree: NDArray[np.float64], matrix: NDArray[np.float64]) -> Labels:
    """So many groups, of two devices at least where that can be.

    Else a device unlike all others would be one of them, and two true groups another.
    """
    from scipy.cluster.hierarchy import cut_tree

    plain = cut_tree(tree, groups)[:, 0].astype(np.int64)
    for number in range(groups, min(len(matrix), groups + MAX_GROUPS)):
        labels = _without_singles(cut_tree(tree, number)[:, 0].astype(np.int64), matrix)
        if labels.max() + 1 == groups:
            return labels
    return plain


def _without_singles(labels: Labels, matrix: NDArray[np.float64]) -> Labels:
    """Each device that is alone joins the group that is nearest on average; labels from 0."""
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    while len(counts := np.bincount(labels)) > 1 and counts.min() == 1:
        alone = int(np.flatnonzero(counts[labels] == 1)[0])
        far = np.bincount(labels, weights=matrix[alone]) / counts
        far[labels[alone]] = np.inf
        labels[alone] = far.argmin()
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    return labels


def _is_aliased(vectors: Vectors, labels: Labels, groups: int | None) -> bool:
    """A group falls into two parts, at least half as far apart as the two nearest groups.

    Devices equally far from one reference may be far from each other. Seen from the member that is
    farthest from its group's mean, they are not equally far.
    """
    from scipy.spatial.distance import pdist

    centroids = _centroids(vectors, labels)
    if len(centroids) == 1:
        return groups is None
    if np.bincount(labels).min() == 1:  # one device cannot tell: all pairs can
        return True
    between = pdist(centroids).min()
    for group, centroid in enumerate(centroids):
        members = np.flatnonzero(labels == group)
        mine = vectors[members[:: -(-len(members) // ENOUGH)]].astype(np.float64)
        if len(mine) < 4:
            continue
        distances = _distances(mine, mine[_farthest(mine, centroid)])
        far = distances > _threshold(distances)
        if np.linalg.norm(mine[far].mean(0) - mine[~far].mean(0)) >= between / 2:
            return True
    return False


def _threshold(values: NDArray[np.float64]) -> float:
    """What parts values into two, of two at least, with the most variance between (Otsu 1979)."""
    ordered = np.sort(values)
    low = np.arange(2, len(values) - 1)  # how many are below
    sums = np.cumsum(ordered)
    below, above = sums[low - 1] / low, (sums[-1] - sums[low - 1]) / (len(values) - low)
    cut = int(((above - below) ** 2 * low * (len(values) - low)).argmax())
    return float(ordered[low[cut] - 1])


def by_first_device(labels: Labels) -> Labels:
    """The same groups, numbered from 0 in the order in which they first appear."""
    _, first, where = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[where].astype(np.int64)


def _centroids(vectors: Vectors, labels: Labels) -> NDArray[np.float64]:
    counts = np.bincount(labels)
    sums = [np.bincount(labels, weights=column) for column in vectors.T]
    return np.stack(sums, axis=1) / counts[:, None]


def _mean(vectors: Vectors) -> NDArray[np.float64]:
    return np.asarray(vectors.mean(axis=0, dtype=np.float64))


def _distances(vectors: Vectors, point: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.concatenate(
        [np.linalg.norm(part.astype(np.float64) - point, axis=1) for part in _parts(vectors)]
    )


def _farthest(vectors: Vectors, point: NDArray[np.floating]) -> int:
    return int(_distances(vectors, point).argmax())


def _parts(vectors: Vectors) -> Iterator[Vectors]:
    for first in range(0, len(vectors), CHUNK):
        yield vectors[first : first + CHUNK]


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
    found = labels[members]
    if not 2 <= len(np.unique(found)) < len(found):
        return float("nan")
    return float(silhouette_score(vectors[members].astype(np.float64), found))
