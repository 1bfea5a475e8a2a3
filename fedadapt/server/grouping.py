"""Which devices have similar data, told from their sparsity vectors alone: PFA's grouping.

Liu et al. 2021, section 3.3, gives two rules (near to a reference device is like it; equally far
from it is like each other) and no algorithm. Ours: agglomerative clustering, average linkage.
"""

import logging
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedadapt.errors import InputError, unknown
from fedadapt.server.on_a_line import line_groups

EXACT_LIMIT = 2000  # devices compared with each other; more are represented by a sample
MAX_GROUPS = 64  # that are looked for; more must be asked for
CHUNK = 65536  # devices measured at once: bounds memory

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
        groups: Their number, or None: the one of 2 to min(n / 2, 64) with the best silhouette, in
            which a device that would be alone joins the nearest group. Fewer than four devices are
            one group.
        method: ``efficient`` or ``exact``.
        seed: Of the sample that stands for more than 2000 devices where pairs are compared.

    Raises:
        InputError: vectors that are no finite matrix, an impossible number of groups.

    """
    given = _checked(vectors, groups, method)
    if groups is None and len(given) < 4:
        groups = 1
    if method == "exact":
        return _exact(given, groups, seed, None)
    reference = _farthest(given, _mean(given))
    distances = _distances(given, given[reference])
    labels = line_groups(distances, groups, MAX_GROUPS)
    if _is_aliased(given, labels):
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
    if groups is not None and not 1 <= groups <= len(found):
        raise InputError(f"grouping: {groups} groups of {len(found)} devices; 1 to {len(found)}")
    return found


def _exact(
    vectors: Vectors, groups: int | None, seed: int, reference: int | None
) -> Grouping:
    """Average linkage on all pairs; above the limit on a sample, the others to the nearest mean."""
    from scipy.spatial.distance import pdist, squareform

    members = _sample(len(vectors), seed)
    condensed = pdist(vectors[members].astype(np.float64))
    found = _pair_groups(condensed, len(members), groups)
    if len(members) < len(vectors):
        centroids = _centroids(vectors[members], found)
        labels = np.concatenate(
            [nearest(torch.from_numpy(centroids), part).numpy() for part in _parts(vectors)]
        )
    else:
        labels = found
    matrix = squareform(condensed) if len(members) > 1 else np.zeros((1, 1))
    return _grouping(vectors, labels, matrix, "exact", reference, seed)


def _grouping(
    vectors: Vectors,
    labels: Labels,
    distances: NDArray[np.float64],
    method: Literal["efficient", "exact"],
    reference: int | None,
    seed: int,
) -> Grouping:
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
