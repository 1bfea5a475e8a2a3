"""A data set in memory: every image once, as bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.errors import InputError

MOST_PIXELS = 1024
"""Pixels a side of the images of clients, as of ``image-size``."""


@dataclass(frozen=True, eq=False)
class Store:
    """Images by number: first those to divide among the clients, then the official test part."""

    pixels: Tensor  # uint8 [N, C, H, W]
    labels: Rows  # int64 [N], 0..len(classes)-1; every class occurs in the first num_train
    num_train: int
    classes: tuple[str, ...]
    domains: tuple[str, ...] = ()
    domain_of: Rows | None = None  # int64 [N], where there are domains
    unreadable: int = 0  # images left out

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """A hash that changes with any byte of any image or label."""
        seen = blake2b(digest_size=16)
        seen.update(np.ascontiguousarray(self.pixels.numpy()).data)
        seen.update(self.labels.data)
        return seen.hexdigest()


def make_store(
    where: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: tuple[str, ...] = (),
) -> Store:
    """Put both official parts into one store, after checks.

    Args:
        where: The file or folder, for errors.
        train: Images uint8 [N, H, W] or [N, H, W, C], C = 1 or 3, and their labels [N].
        test: The same; may be empty.
        classes: Names; the numbers of the labels where empty.

    """
    planes = [_planes(where, part, *of) for part, of in (("train", train), ("test", test))]
    if planes[0].shape[1:] != planes[1].shape[1:]:
        raise InputError(
            f"{where}: training images are {tuple(planes[0].shape[1:])} and test images "
            f"{tuple(planes[1].shape[1:])}; they must have one shape"
        )
    if not len(train[1]):
        raise InputError(f"{where}: has no training images; each class needs some")
    # As they came: int64 does not hold all that other types do.
    least = min(int(part.min()) for part in (train[1], test[1]) if len(part))
    most = max(int(part.max()) for part in (train[1], test[1]) if len(part))
    if classes and not 0 <= least <= most < len(classes):
        raise InputError(
            f"{where}: labels run from {least} to {most}; with {len(classes)} classes they must be "
            f"0 to {len(classes) - 1}"
        )
    if least < 0 or max(most, len(classes) - 1) >= len(train[1]):
        raise InputError(
            f"{where}: labels run from {least} to {max(most, len(classes) - 1)}; they must be "
            f"numbered from 0, each with training images, of which there are {len(train[1])}"
        )
    labels = np.concatenate([part.astype(np.int64) for part in (train[1], test[1])])
    names = classes or tuple(map(str, range(most + 1)))
    present = np.bincount(labels[: len(train[1])], minlength=len(names))
    if not present.all():
        empty = names[int(np.flatnonzero(present == 0)[0])]
        raise InputError(f"{where}: class {empty!r} has no training images; each class needs some")
    return Store(torch.cat(planes), labels, len(train[1]), names)


def store_of(
    where: str,
    images: Any,
    labels: Sequence[Any] | np.ndarray,
    domains: Sequence[Any] | np.ndarray | None = None,
) -> Store:
    """Put images without an official test part into a store, after checks.

    Args:
        where: The data set, for errors.
        images: uint8 [N, H, W] or [N, H, W, C], C = 1 or 3.
        labels: Whole numbers from 0, or words, which become classes in sorted order, [N].
        domains: Likewise the domain of each image, [N].

    Raises:
        InputError: A shape, a type or a label is not allowed.

    """
    pixels = np.asarray(images)
    numbers, classes = _numbered(labels)
    nothing = (pixels[:0], numbers[:0])
    store = make_store(where, (pixels, numbers), nothing, classes)
    if domains is None:
        return store
    domain_of, names = _numbered(domains)
    if domain_of.shape != numbers.shape or domain_of.dtype.kind not in "iu":
        raise InputError(
            f"{where}: {domain_of.dtype} {list(domain_of.shape)} domains; there must be one word "
            f"or whole number for each of the {len(numbers)} images"
        )
    if int(domain_of.min()) < 0 or int(domain_of.max()) >= len(domain_of):
        raise InputError(
            f"{where}: domains run from {domain_of.min()} to {domain_of.max()}; they must be "
            "numbered from 0, and each needs an image"
        )
    names = names or tuple(map(str, range(int(domain_of.max()) + 1)))
    if not np.bincount(domain_of, minlength=len(names)).all():
        raise InputError(f"{where}: domains must be numbered from 0, and each needs an image")
    return replace(store, domains=names, domain_of=domain_of.astype(np.int64))


def _numbered(values: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers [N] and the words they stand for, in sorted order; no words where numbers came."""
    array = np.asarray(values)
    if array.dtype.kind != "U":
        return array, ()
    words, numbers = np.unique(array, return_inverse=True)
    return numbers.reshape(array.shape), tuple(map(str, words))


def _planes(where: str, part: str, images: np.ndarray, labels: np.ndarray) -> Tensor:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise InputError(
            f"{where}: x_{part} is {images.dtype} {list(images.shape)}; it must be uint8 "
            "[N, H, W] or [N, H, W, C]"
        )
    if images.ndim == 3:
        images = images[..., None]
    if max(images.shape[1:3]) > MOST_PIXELS:
        raise InputError(
            f"{where}: x_{part} is {list(images.shape)}; images have at most {MOST_PIXELS} pixels "
            "a side"
        )
    if images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
        raise InputError(
            f"{where}: x_{part} is {list(images.shape)}; images have one channel or three, last"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{where}: y_{part} is {labels.dtype} {list(labels.shape)}; it must be one whole "
            f"number for each of the {len(images)} images"
        )
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
