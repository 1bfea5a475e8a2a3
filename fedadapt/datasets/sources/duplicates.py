"""Identical images: every group of them is joined, so that none is trained on and tested on."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from fedadapt.datasets.partitioning.client_indices import SplitIndices
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.sources.image_store import Store
from fedadapt.errors import InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Which images of a store are the same, byte by byte.

    Attributes:
        distinct: The first image of each group of identical ones, ascending; [n].
        copies: First image -> the others of its group that have its label, and lie in the same
            part of the store (the images to divide, or the official test part).
        left_out: The number of images that no client gets: copies that have another label than the
            first image of their group, and test images that are also images to divide.

    """

    distinct: Rows
    copies: dict[int, Rows]
    left_out: int = 0

    @property
    def joined(self) -> int:
        """The number of copies that go where the first image of their group goes."""
        return sum(map(len, self.copies.values()))

    def with_copies(self, split: SplitIndices) -> SplitIndices:
        """A client's three sets, each followed by the copies of its images."""
        if not self.copies:
            return split
        return SplitIndices(*(self._extended(rows) for rows in split))

    def _extended(self, rows: Rows) -> Rows:
        copies = [self.copies[row] for row in rows.tolist() if row in self.copies]
        return np.concatenate([rows, *copies])

    @property
    def metadata(self) -> dict[str, object]:
        """Facts for a manifest; empty where no two images are the same."""
        counts = {"duplicate-images": self.joined, "left-out-images": self.left_out}
        return {key: count for key, count in counts.items() if count}


def no_duplicates(store: Store) -> Duplicates:
    """Take all images of a store as distinct."""
    return Duplicates(np.arange(len(store)), {})


def find_duplicates(store: Store) -> Duplicates:
    """Find the identical images of a store.

    Raises:
        InputError: A class is left without an image of its own.

    """
    groups: dict[bytes, list[int]] = {}
    for row, image in enumerate(store.inputs.numpy()):
        digest = blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
        groups.setdefault(digest, []).append(row)
    copies = {rows[0]: _copies(store, rows) for rows in groups.values() if len(rows) > 1}
    left_out = sum(len(rows) for rows in groups.values()) - len(groups)
    left_out -= sum(map(len, copies.values()))
    distinct = np.array([rows[0] for rows in groups.values()], np.int64)  # in the order of rows
    duplicates = Duplicates(
        distinct, {row: rows for row, rows in copies.items() if len(rows)}, left_out
    )
    _check_classes(store, distinct)
    if duplicates.metadata:
        log.info(
            "identical images: %d copies go where the first one goes, %d are left out",
            duplicates.joined,
            left_out,
        )
    return duplicates


def _copies(store: Store, rows: Iterable[int]) -> Rows:
    """The images after the first that have its label and are in its part of the store."""
    first, *others = rows
    return np.array(
        [
            row
            for row in others
            if store.labels[row] == store.labels[first]
            and (row < store.num_train) == (first < store.num_train)
        ],
        np.int64,
    )


def _check_classes(store: Store, distinct: Rows) -> None:
    counts = np.bincount(
        store.labels[distinct[distinct < store.num_train]], minlength=len(store.classes)
    )
    if not counts.all():
        name = store.classes[int(np.flatnonzero(counts == 0)[0])]
        raise InputError(
            f"class {name!r} has no image of its own: each is also in another class; correct the "
            "labels"
        )
