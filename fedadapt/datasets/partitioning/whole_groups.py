"""Groups of inputs that are nearly the same stay whole: a burst of pictures, one recording.

Neighbouring pictures of a burst and overlapping windows of a recording are almost copies. If one
were trained on and the other tested on, the test would say how well a model remembers.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from fedadapt.datasets.partitioning.client_indices import SplitIndices
from fedadapt.datasets.partitioning.stratified import Rows, stratified_order, three_sizes
from fedadapt.datasets.sources.image_store import Store

LEAST_GROUPS = 3
"""Groups that a client needs: one to train on, one to adapt to, one to be tested on."""


def groups_of(store: Store, *, join_identical: bool) -> Rows | None:
    """The group of each input, [N]; None where each is by itself.

    Args:
        join_identical: Inputs of one owner that are identical byte by byte come into one group,
            and so do the groups that they are of.

    """
    groups = np.arange(len(store)) if store.group_of is None else store.group_of
    if not join_identical:
        return None if store.group_of is None else groups
    identical = _identical(store)
    if store.group_of is None and len(np.unique(identical)) == len(identical):
        return None
    return _joined(groups, identical)


def _identical(store: Store) -> Rows:
    """Equal numbers for inputs of one owner that are identical, [N]."""
    numbers: dict[tuple[int, bytes], int] = {}
    found = np.empty(len(store), np.int64)
    for row, values in enumerate(store.inputs.numpy()):
        digest = blake2b(np.ascontiguousarray(values).data, digest_size=16).digest()
        owner = -1 if store.owner_of is None else int(store.owner_of[row])
        found[row] = numbers.setdefault((owner, digest), len(numbers))
    return found


def _joined(first: Rows, second: Rows) -> Rows:
    """The finest groups that break neither of two groupings, [N]: connected components."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left = np.unique(first, return_inverse=True)[1].reshape(-1)
    right = np.unique(second, return_inverse=True)[1].reshape(-1) + left.max() + 1
    size = int(right.max()) + 1
    edges = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(size, size))
    components = connected_components(edges, directed=False)[1]
    return np.asarray(components[left], np.int64)


def representatives(rows: Rows, groups: Rows) -> tuple[Rows, dict[int, Rows]]:
    """One input of each group, ascending, and all inputs of the group of each of them.

    Args:
        rows: The inputs to divide, [n].
        groups: The group of each input of the store, [N].

    """
    order = rows[np.argsort(groups[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    members = np.split(order, starts[1:])
    return np.sort(order[starts]), {int(each[0]): each for each in members}


def three_sets_of_groups(
    rows: Rows,
    groups: Rows,
    labels: Rows,
    adapt_share: float,
    test_share: float,
    rng: np.random.Generator,
) -> SplitIndices:
    """Cut a client's inputs into train, adapt and test without parting a group.

    Groups come in random order, large ones first; each goes to the set that still wants most of its
    labels. Sechidis et al. 2011, "On the stratification of multi-label data", with groups in the
    place of examples.

    Args:
        rows: The client's inputs, of at least three groups, [n].
        groups: The group of each input of the store, [N].
        labels: Labels of all inputs in the store, [N].

    """
    present, label = np.unique(labels[rows], return_inverse=True)
    names, group = np.unique(groups[rows], return_inverse=True)
    counts = np.zeros((len(names), len(present)))
    np.add.at(counts, (group, label), 1)
    shares = np.array([1 - adapt_share - test_share, adapt_share, test_share])
    place = _places(counts, shares, rng)
    return SplitIndices(*(rows[place[group] == part] for part in range(3)))


def _places(
    counts: NDArray[np.float64], shares: NDArray[np.float64], rng: np.random.Generator
) -> Rows:
    """The set, 0 to 2, of each group.

    Args:
        counts: Inputs of each group and label, [G, L].
        shares: Of the three sets; their sum is 1, [3].

    """
    wanted = shares[:, None] * counts.sum(0)  # [3, L]
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    place = np.zeros(len(counts), np.int64)
    for number in order:
        of_group = counts[number]
        # First what the set still wants of the group's labels, then of anything.
        worth = wanted @ of_group / of_group.sum() + 1e-6 * wanted.sum(1)
        place[number] = int(worth.argmax())
        wanted[place[number]] -= of_group
    for part in (2, 1, 0):
        if not (place == part).any():
            giving = int(np.bincount(place, minlength=3).argmax())
            of_giving = np.flatnonzero(place == giving)
            place[of_giving[counts[of_giving].sum(1).argmin()]] = part
    return place


def at_most(
    split: SplitIndices,
    labels: Rows,
    most: int,
    adapt_share: float,
    test_share: float,
    rng: np.random.Generator,
) -> SplitIndices:
    """Leave inputs out, so that a client has at most ``most`` in its three sets together."""
    if sum(map(len, split)) <= most:
        return split
    sizes = three_sizes(most, adapt_share, test_share)
    return SplitIndices(
        *(
            rows[stratified_order(labels[rows], rng)[:size]]
            for rows, size in zip(split, sizes, strict=True)
        )
    )
