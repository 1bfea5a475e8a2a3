"""Uneven sizes of the clients: relative sizes, and clients that would get too little."""

import numpy as np
from numpy.typing import NDArray

from fedadapt.datasets.partitioning.size_rules import Quantity
from fedadapt.datasets.partitioning.stratified import Rows, stratified_order

COMFORTABLE = 10
"""Images below which a random size is topped up where there are enough (as flwr-datasets does)."""


def relative_sizes(
    rule: Quantity, num_clients: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Each client's size over the largest one's, in random order of the clients: (0, 1], [D]."""
    rank = np.arange(1, num_clients + 1, dtype=np.float64)
    # The normal draws are made for every rule, so that the order of the clients after them is a
    # function of the seed alone.
    sizes = rule.sizes(rank, rng.standard_normal(num_clients))
    return rng.permutation(sizes / sizes.max())


def thin(
    clients: list[Rows], labels: Rows, sizes: NDArray[np.float64], rng: np.random.Generator
) -> list[Rows]:
    """Let each client keep a share of its images, its classes in proportion.

    Args:
        sizes: The share each client keeps, [D].

    """
    return [
        rows[stratified_order(labels[rows], rng)[: max(min(COMFORTABLE, len(rows)), round(keep))]]
        for rows, keep in ((r, len(r) * s) for r, s in zip(clients, sizes, strict=True))
    ]


def top_up(clients: list[Rows], rng: np.random.Generator) -> list[Rows]:
    """Move images from the largest clients to those that a random size left with too few.

    Enough is ``COMFORTABLE``, or an even share where that is less. No image is lost or doubled.
    """
    sizes = np.array([len(rows) for rows in clients])
    enough = min(COMFORTABLE, int(sizes.sum()) // len(clients))
    topped_up = [rng.permutation(rows) for rows in clients]
    for small in np.flatnonzero(sizes < enough):
        while sizes[small] < enough:
            large = int(sizes.argmax())
            moved = min(enough - sizes[small], sizes[large] - enough)
            topped_up[small] = np.concatenate((topped_up[small], topped_up[large][-moved:]))
            topped_up[large] = topped_up[large][:-moved]
            sizes[small] += moved
            sizes[large] -= moved
    return topped_up
