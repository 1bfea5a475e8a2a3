"""How uneven the classes are, and how uneven the clients' sizes."""

import numpy as np
from numpy.typing import NDArray

from fedadapt.datasets.partitioning.spec import Rule
from fedadapt.datasets.partitioning.stratified import Rows, stratified_order

COMFORTABLE = 10
"""Images below which a random size is topped up where there are enough (as flwr-datasets does)."""


def long_tail(rows: Rows, labels: Rows, rule: Rule, rng: np.random.Generator) -> Rows:
    """Keep floor(n_max * IF^(c / (C - 1))) images of class c, n_max that of the largest class.

    A class that has fewer to begin with keeps all; every class keeps at least one.
    Cao et al. 2019 (LDAM); FedLoGe's data are made so.

    Args:
        rows: The images to choose from, [n].
        labels: Of all images in the store; every class is among them.

    """
    if rule.name == "none":
        return rows
    num_classes = int(labels.max()) + 1
    of_class = [rows[labels[rows] == c] for c in range(num_classes)]
    largest = max(map(len, of_class))
    # A hair is added before the floor, so that 100 * 0.1 ** 1 keeps its 10.
    states = [
        max(1, int(largest * rule.value ** (c / max(1, num_classes - 1)) + 1e-9))
        for c in range(num_classes)
    ]
    return np.concatenate([rng.permutation(r)[:n] for r, n in zip(of_class, states, strict=True)])


def relative_sizes(rule: Rule, num_clients: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Each client's size over the largest one's, in random order of the clients: (0, 1], [D]."""
    rank = np.arange(1, num_clients + 1, dtype=np.float64)
    sizes = {
        "even": np.ones_like(rank),
        "linear": rank,
        "square": rank**2,
        "exponential": np.exp(rank - num_clients),
        "lognormal": np.exp(rule.value * rng.standard_normal(num_clients)),
    }[rule.name]
    return rng.permutation(sizes / sizes.max())


def thin(
    clients: list[Rows], labels: Rows, sizes: NDArray[np.float64], rng: np.random.Generator
) -> list[Rows]:
    """Each client keeps the given share of its images, its classes in proportion."""
    return [
        rows[stratified_order(labels[rows], rng)[: max(min(COMFORTABLE, len(rows)), round(keep))]]
        for rows, keep in ((r, len(r) * s) for r, s in zip(clients, sizes, strict=True))
    ]


def top_up(clients: list[Rows], rng: np.random.Generator) -> list[Rows]:
    """Random sizes can starve a client: the largest ones give it images until it has enough.

    Enough is ``COMFORTABLE``, or an even share where that is less. No image is lost or doubled.
    """
    sizes = np.array([len(rows) for rows in clients])
    enough = min(COMFORTABLE, int(sizes.sum()) // len(clients))
    fed = [rng.permutation(rows) for rows in clients]
    for poor in np.flatnonzero(sizes < enough):
        while sizes[poor] < enough:
            rich = int(sizes.argmax())
            given = min(enough - sizes[poor], sizes[rich] - enough)
            fed[poor] = np.concatenate((fed[poor], fed[rich][-given:]))
            fed[rich] = fed[rich][:-given]
            sizes[poor] += given
            sizes[rich] -= given
    return fed
