"""Image indices of every client, stored as three flat arrays and sliced on demand."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from fedadapt.datasets.partitioning.stratified import Rows

AT_ONCE = 4096  # clients


class SplitIndices(NamedTuple):
    """The images of a client's three sets; no image is in two of them."""

    train: Rows
    adapt: Rows
    test: Rows


class RaggedIndices:
    """One set of all clients: a list of images per client, stored one after the other."""

    def __init__(self, images: NDArray[np.int32], counts: Rows) -> None:
        """Take all images, [sum of counts], and the number of images of each client, [D]."""
        self.images = images
        self.counts = counts
        self.starts = np.cumsum(counts) - counts

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, client: int) -> Rows:
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
        return len(self.sets[0])

    @overload
    def __getitem__(self, client: int) -> SplitIndices: ...

    @overload
    def __getitem__(self, client: slice) -> list[SplitIndices]: ...

    def __getitem__(self, client: int | slice) -> SplitIndices | list[SplitIndices]:
        if isinstance(client, slice):
            return [self[d] for d in range(*client.indices(len(self)))]
        return SplitIndices(*(indices[range(len(self))[client]] for indices in self.sets))

    def trained_on(self, unseen: Iterable[int] = ()) -> Rows:
        """The images that clients train on, ``unseen`` clients left out; ascending."""
        train, seen = self.sets[0], np.ones(len(self), bool)
        seen[list(unseen)] = False
        used = np.zeros(train.images.max(initial=-1) + 1, bool)
        used[train.images[np.repeat(seen, train.counts)]] = True
        return np.flatnonzero(used)

    def flattened(self) -> Iterator[NDArray[np.int64]]:
        """All indices as numbers, in pieces, for a hash.

        Client by client: the number of train images, these images, then adapt and test alike.
        """
        for first in range(0, len(self), AT_ONCE):
            clients = slice(first, first + AT_ONCE)
            counts = np.stack([indices.counts[clients] for indices in self.sets], axis=1)
            starts = (np.cumsum(counts + 1) - (counts + 1).ravel()).reshape(counts.shape)
            numbers = np.empty(counts.sum() + counts.size, "<i8")
            numbers[starts] = counts
            for part, indices in enumerate(self.sets):
                begin, sizes = indices.starts[first], counts[:, part]
                images = indices.images[begin : begin + sizes.sum()]
                numbers[consecutive(starts[:, part] + 1, sizes)] = images
            yield numbers


def consecutive(starts: Rows, counts: Rows) -> Rows:
    """starts[0], starts[0] + 1, ... (counts[0] numbers), then from starts[1] on, and so forth."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())
