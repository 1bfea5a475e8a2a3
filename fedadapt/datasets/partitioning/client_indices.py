"""Which images each of many clients holds, as three long lists: a client's own are made lazily."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from fedadapt.datasets.partitioning.stratified import Rows

AT_ONCE = 4096  # clients


class SplitIndices(NamedTuple):
    """The images each of a client's three sets is drawn from; no image is in two of them."""

    train: Rows
    adapt: Rows
    test: Rows


class RaggedIndices:
    """One set of all clients: their images one after the other."""

    def __init__(self, images: NDArray[np.int32], counts: Rows) -> None:
        """Take all images, [sum of counts], and how many each client has, [D]."""
        self.images = images
        self.counts = counts
        self.starts = np.cumsum(counts) - counts

    def of(self, client: int) -> Rows:
        start = self.starts[client]
        return self.images[start : start + self.counts[client]].astype(np.int64)

    @staticmethod
    def of_lists(lists: Sequence[Rows]) -> "RaggedIndices":
        return RaggedIndices(
            np.concatenate(lists).astype(np.int32), np.array([len(rows) for rows in lists])
        )


class ClientIndices(Sequence[SplitIndices]):
    """The three sets of every client, four bytes an image."""

    def __init__(self, train: RaggedIndices, adapt: RaggedIndices, test: RaggedIndices) -> None:
        self.sets = (train, adapt, test)

    @staticmethod
    def of(clients: Iterable[SplitIndices]) -> "ClientIndices":
        return ClientIndices(
            *(RaggedIndices.of_lists(lists) for lists in zip(*clients, strict=True))
        )

    def __len__(self) -> int:
        return len(self.sets[0].counts)

    @overload
    def __getitem__(self, client: int) -> SplitIndices: ...

    @overload
    def __getitem__(self, client: slice) -> list[SplitIndices]: ...

    def __getitem__(self, client: int | slice) -> SplitIndices | list[SplitIndices]:
        if isinstance(client, slice):
            return [self[d] for d in range(*client.indices(len(self)))]
        return SplitIndices(*(pile.of(range(len(self))[client]) for pile in self.sets))

    def trained_on(self, unseen: Iterable[int] = ()) -> Rows:
        """The images that clients train on, ``unseen`` clients left out; ascending."""
        train, seen = self.sets[0], np.ones(len(self), bool)
        seen[list(unseen)] = False
        used = np.zeros(train.images.max(initial=-1) + 1, bool)
        used[train.images[np.repeat(seen, train.counts)]] = True
        return np.flatnonzero(used)

    def written_out(self) -> Iterator[NDArray[np.int64]]:
        """Client by client: how many train images, these, then adapt and test alike; in pieces."""
        for first in range(0, len(self), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            counts = np.stack([pile.counts[some] for pile in self.sets], axis=1)
            starts = (np.cumsum(counts + 1) - (counts + 1).ravel()).reshape(counts.shape)
            found = np.empty(counts.sum() + counts.size, "<i8")
            found[starts] = counts
            for number, pile in enumerate(self.sets):
                begin, own = pile.starts[first], counts[:, number]
                images = pile.images[begin : begin + own.sum()]
                found[places(starts[:, number] + 1, own)] = images
            yield found


def places(starts: Rows, counts: Rows) -> Rows:
    """starts[0], starts[0] + 1, ... (counts[0] of them), then from starts[1] on, and so forth."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())
