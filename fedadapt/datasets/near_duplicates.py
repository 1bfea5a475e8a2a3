"""Nearly the same inputs on two sides: what is tested on that was almost trained on.

Images are near duplicates if their shrunken pictures hardly differ; time series and sequences of
tokens if they share a stretch, as overlapping windows of one recording do.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedadapt.datasets.benchmark import Benchmark, Split
from fedadapt.errors import InputError

SIDE = 16  # pixels of the shrunken images that are compared
ALIKE = 0.03  # root mean square difference of 0 to 1, below which images are near duplicates
SHARED = 0.25  # of a series or a sequence: the stretch that two have in common is so long at least
AT_ONCE = 1024  # images that are compared with all others


@dataclass(frozen=True)
class Leak:
    """How many inputs of one side have a near duplicate on another.

    Attributes:
        side: ``test`` or ``adapt``.
        against: ``train`` or ``adapt``.
        number: Inputs of the side that have a near duplicate against which they are held.
        other_clients: How many more have one on other clients only; these are no leak of a client's
            own, but of the model that all share.
        total: Inputs of the side.

    """

    side: str
    against: str
    number: int
    other_clients: int
    total: int

    @property
    def share(self) -> float:
        """Of the side's inputs that have a near duplicate on the same client."""
        return self.number / max(1, self.total)


def find_leaks(benchmark: Benchmark, alike: float = ALIKE, shared: float = SHARED) -> list[Leak]:
    """Compare the test images of all clients with what they train on and adapt to.

    Args:
        alike: For images, see ``ALIKE``.
        shared: For series and tokens, the share of their length that two must have in common.

    Raises:
        InputError: A threshold is out of range.

    """
    if not 0 < alike < 1 or not 0 < shared <= 1:
        raise InputError(f"alike, shared: {alike:g}, {shared:g}; both must be above 0, at most 1")
    splits = [benchmark.split(client) for client in range(benchmark.num_clients)]
    pairs = (("test", "train"), ("test", "adapt"), ("adapt", "train"))
    return [_leak(splits, side, against, alike, shared) for side, against in pairs]


def _leak(splits: Sequence[Split], side: str, against: str, alike: float, shared: float) -> Leak:
    inputs, owners = _side(splits, side)
    others, other_owners = _side(splits, against)
    own = np.zeros(len(inputs), bool)
    anywhere = np.zeros(len(inputs), bool)
    if inputs.dtype == torch.uint8:
        matches = _alike_images(inputs, others, alike)
    else:
        matches = _sharing_a_stretch(inputs, others, shared)
    for rows, other_rows in matches:
        anywhere[rows] = True
        own[rows[owners[rows] == other_owners[other_rows]]] = True
    return Leak(side, against, int(own.sum()), int((anywhere & ~own).sum()), len(inputs))


def _side(splits: Sequence[Split], name: str) -> tuple[Tensor, NDArray[np.int64]]:
    """The inputs of all clients, one after the other, and whose they are."""
    parts = [getattr(split, name).inputs for split in splits]
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return torch.cat(parts), owners


Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rows of one side and the rows of the other that they match."""


def _alike_images(inputs: Tensor, others: Tensor, alike: float) -> Iterator[Pairs]:
    """Pairs of images whose shrunken pictures differ by less than ``alike``, portion by portion."""
    one, two = (_shrunken(images) for images in (inputs, others))
    squares = two.square().sum(1)
    for first in range(0, len(one), AT_ONCE):
        batch = one[first : first + AT_ONCE]
        distances = batch.square().sum(1)[:, None] - 2 * batch @ two.T + squares
        rows, other_rows = (distances / one.shape[1] < alike**2).nonzero(as_tuple=True)
        yield rows.numpy() + first, other_rows.numpy()


def _shrunken(images: Tensor) -> Tensor:
    """Images of 0 to 1 as vectors, at most 16 pixels a side: [N, features]."""
    parts = []
    for batch in images.split(AT_ONCE):
        values = batch.float() / 255
        if max(values.shape[2:]) > SIDE:
            values = torch.nn.functional.adaptive_avg_pool2d(values, SIDE)
        parts.append(values.flatten(1))
    return torch.cat(parts)


def _sharing_a_stretch(inputs: Tensor, others: Tensor, shared: float) -> Iterator[Pairs]:
    """Pairs of inputs that have a stretch of exactly equal values in common.

    Stretches begin at every place of the one and at every half stretch of the other, so every
    overlap of at least ``shared`` is found, and none of less than half of that.
    """
    one, two = (_positions(values) for values in (inputs, others))
    length = max(1, int(shared * one.shape[1]) // 2)
    keys, rows = _stretches(one, length, 1)
    other_keys, other_rows = _stretches(two, length, length)
    order = np.argsort(other_keys, kind="stable")
    first = np.searchsorted(other_keys[order], keys, "left")
    counts = np.searchsorted(other_keys[order], keys, "right") - first
    found = np.flatnonzero(counts)
    starts = np.repeat(first[found], counts[found])
    before = np.cumsum(counts[found]) - counts[found]
    places = starts + np.arange(len(starts)) - np.repeat(before, counts[found])
    yield np.repeat(rows[found], counts[found]), other_rows[order[places]]


def _positions(inputs: Tensor) -> NDArray[np.uint64]:
    """A number for what is at each position of each input, [N, T]: equal values, equal numbers."""
    values = inputs.numpy() if inputs.dim() > 2 else inputs.numpy()[:, None]
    bits = np.ascontiguousarray(values).view(f"u{values.itemsize}").astype(np.uint64)
    channels = prod(bits.shape[1:-1])
    together = bits.reshape(len(bits), channels, bits.shape[-1])
    return np.einsum("nct,c->nt", together, _factors(channels))


def _stretches(
    positions: NDArray[np.uint64], length: int, step: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A number for each stretch of ``length`` positions, and the input that it is of."""
    windows = np.lib.stride_tricks.sliding_window_view(positions, length, axis=1)[:, ::step]
    keys = np.einsum("nwl,l->nw", windows, _factors(length))
    rows = np.repeat(np.arange(len(positions)), keys.shape[1])
    # A stretch of one value only is silence, or padding: it says nothing.
    changing = (windows != windows[:, :, :1]).any(axis=2).reshape(-1)
    return keys.reshape(-1)[changing], rows[changing]


def _factors(count: int) -> NDArray[np.uint64]:
    """Odd factors of 64 bits, the same each time: products of unequal values seldom agree."""
    drawn = np.random.default_rng(count).integers(0, 2**63, count, np.uint64)
    return drawn * np.uint64(2) + np.uint64(1)
