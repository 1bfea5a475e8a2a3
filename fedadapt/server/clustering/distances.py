"""Distances of very many vectors to one point, a chunk at a time: memory stays bounded."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

CHUNK = 65536  # vectors at once

Vectors = NDArray[np.floating]  # [n, q]


def distances_to(vectors: Vectors, point: NDArray[np.floating]) -> NDArray[np.float64]:
    """Euclidean: [n]."""
    return np.concatenate(
        [np.linalg.norm(part.astype(np.float64) - point, axis=1) for part in chunks(vectors)]
    )


def farthest(vectors: Vectors, point: NDArray[np.floating]) -> int:
    """Which one, the first of equals."""
    return int(distances_to(vectors, point).argmax())


def mean_of(vectors: Vectors) -> NDArray[np.float64]:
    """[q]."""
    return np.asarray(vectors.mean(axis=0, dtype=np.float64))


def chunks(vectors: Vectors) -> Iterator[Vectors]:
    for first in range(0, len(vectors), CHUNK):
        yield vectors[first : first + CHUNK]
