"""Orders and shares that keep the proportions of the classes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""Row numbers of images in a store, [n]."""


def stratified_order(
    labels: NDArray[Any], rng: np.random.Generator, *, evenly: bool = False
) -> Rows:
    """A random order in which every stretch has each label about as often as the whole.

    Each image stands at (rank within its label + u) / count of its label, with a random rank and
    one u in [0, 1) a label: a stretch of share s holds s * count images of a label, give or take 1.
    ``evenly``: u = 1/2 for all, so that labels that are equally frequent take turns.

    Returns:
        A permutation of 0..n-1, [n].

    """
    position = np.empty(len(labels))
    for label in np.unique(labels):
        of_label = rng.permutation(np.flatnonzero(labels == label))
        position[of_label] = (np.arange(len(of_label)) + (0.5 if evenly else rng.random())) / len(
            of_label
        )
    return np.argsort(position, kind="stable").astype(np.int64)


def three_sizes(num: int, adapt_share: float, test_share: float) -> tuple[int, int, int]:
    """How many of ``num`` >= 3 images are for train, adapt and test: at least one each."""
    test = min(max(1, round(num * test_share)), num - 2)
    adapt = min(max(1, round(num * adapt_share)), num - 1 - test)
    return num - adapt - test, adapt, test


def whole_counts(shares: NDArray[np.float64], totals: Rows, rng: np.random.Generator) -> Rows:
    """Round totals * shares so that each row sums to its total and no class is favoured.

    One random offset a row: each count is off by less than 1, and right on average.

    Args:
        shares: Rows sum to 1, [D, C].
        totals: [D].

    Returns:
        [D, C].

    """
    edges = np.zeros((len(shares), shares.shape[1] + 1))
    edges[:, 1:] = np.cumsum(shares, axis=1) * totals[:, None]
    edges[:, -1] = totals  # against rounding
    return np.diff(np.floor(edges + rng.random((len(shares), 1)))).astype(np.int64)
