"""Draw any number of clients from a small data set: images repeat only once a pool is used up.

There are three pools a class, for train, adapt and test. They share no image: no client's test
image is any client's training image, however many clients there are.
"""

import numpy as np
from numpy.typing import NDArray

from fedadapt.datasets.partitioning.client_indices import (
    ClientIndices,
    RaggedIndices,
    SplitIndices,
    consecutive,
)
from fedadapt.datasets.partitioning.stratified import Rows, whole_counts


class SamplingPool:
    """A shuffled pool that clients draw from in turn; it is shuffled again when it is used up."""

    def __init__(self, items: Rows, order: Rows, wanted: Rows) -> None:
        """Take the pool and its first order; the caller makes the other shuffles.

        Args:
            items: The items of the pool, all different, [n].
            order: Positions in ``items``: the order of the first pass, [n].
            wanted: The number of items of each client, [D]; none gets an item twice, so at most n.

        """
        num = len(items)
        self._items = items
        self._orders = [order]
        self.counts = np.minimum(wanted, num)
        self._ends = np.cumsum(self.counts)
        used_up = np.arange(num, self._ends[-1], num) if num else np.zeros(0, np.int64)
        self.runs_out_at = np.searchsorted(self._ends, used_up, side="right")
        """The clients during whose draws the pool must be shuffled again, ascending."""
        drawn_before = used_up - (self._ends - self.counts)[self.runs_out_at]
        self._drawn_before = iter(drawn_before.tolist())  # items of that client until then

    def shuffle(self, rng: np.random.Generator) -> None:
        """Add another pass over the pool."""
        order = rng.permutation(len(self._items))
        if num_drawn := next(self._drawn_before):
            # What the client has drawn already goes to the end: it cannot come twice.
            drawn = np.zeros(len(order), bool)
            drawn[self._orders[-1][-num_drawn:]] = True
            order = order[drawn[order].argsort(kind="stable")]
        self._orders.append(order)

    def drawn(self) -> Rows:
        """The items of all clients, one client after the other."""
        return self._items[np.concatenate(self._orders)[: self._ends[-1]]]


def draw_without_replacement(
    pools: SplitIndices,
    labels: Rows,
    shares: NDArray[np.float64],
    sizes: list[tuple[int, int, int]],
    rng: np.random.Generator,
) -> ClientIndices:
    """Draw each client's train, adapt and test images.

    Args:
        labels: Labels of all images in the store, [N].
        shares: The share of each class on each client, [D, C]; weighted by how often the pool for
            training has each class, so that a long tail reaches every client.
        sizes: Images for (train, adapt, test) of each client; a client gets fewer where its
            classes have fewer.

    """
    num_classes = shares.shape[1]
    weighted = shares * np.bincount(labels[pools.train], minlength=num_classes)
    weighted /= weighted.sum(axis=1, keepdims=True)
    items = [[rows[labels[rows] == c] for c in range(num_classes)] for rows in pools]
    orders = [[rng.permutation(len(of_class)) for of_class in of_set] for of_set in items]
    wanted = [
        whole_counts(weighted, np.array(numbers), rng) for numbers in zip(*sizes, strict=True)
    ]
    sampling_pools = [
        [SamplingPool(*arguments) for arguments in zip(*of_set, strict=True)]
        for of_set in zip(items, orders, (counts.T for counts in wanted), strict=True)
    ]
    # Client after client draws from its train pools, then adapt, then test, class by class; the
    # pools that run out are shuffled in this order.
    turns = [
        (int(client), part, c)
        for part, of_set in enumerate(sampling_pools)
        for c, pool in enumerate(of_set)
        for client in pool.runs_out_at
    ]
    for _, part, c in sorted(turns):
        sampling_pools[part][c].shuffle(rng)
    return ClientIndices(*map(_collect, sampling_pools))


def _collect(sampling_pools: list[SamplingPool]) -> RaggedIndices:
    """The draws from all pools, client by client, in the order of the pools."""
    counts = np.stack([pool.counts for pool in sampling_pools], axis=1)  # [D, C]
    starts = (np.cumsum(counts) - counts.ravel()).reshape(counts.shape)
    images = np.empty(counts.sum(), np.int32)
    for pool, start in zip(sampling_pools, starts.T, strict=True):
        images[consecutive(start, pool.counts)] = pool.drawn()
    return RaggedIndices(images, counts.sum(axis=1))
