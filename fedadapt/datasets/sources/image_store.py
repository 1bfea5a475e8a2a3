"""A data set in memory: every input once, as it is stored."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedadapt.datasets.entries import IMAGES, SERIES, TOKENS
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.errors import InputError

MOST_TOKENS = 1_000_000
"""Different tokens there may be: a larger number is a mistake, and would be a row of weights."""
MOST_PIXELS = 1024
"""Pixels a side of the images of clients, as of ``image-size``."""


@dataclass(frozen=True, eq=False)
class Store:
    """Inputs by number: first those to divide among the clients, then the official test part.

    Attributes:
        inputs: Images, uint8 [N, C, H, W]; measurements, float32 [N, ...] with the channels first;
            or sequences of tokens, int64 [N, T].
        labels: int64 [N], 0..len(classes)-1; every class occurs in the first ``num_train``.
        num_train: The number of inputs that are divided among the clients.
        classes: Their names.
        domains: Names; empty where there are none.
        domain_of: int64 [N], where there are domains.
        unreadable: Number of files that were left out.
        owners: Names of those whose data these are, such as persons or cameras; empty where the
            data belong to nobody.
        owner_of: int64 [N], where there are owners.
        group_of: int64 [N]; inputs of one group are nearly the same (a burst of pictures, windows
            of one recording) and never lie on two sides. None where every input is by itself.
        vocabulary: Number of different tokens; 0 where inputs are no tokens.

    """

    inputs: Tensor
    labels: Rows
    num_train: int
    classes: tuple[str, ...]
    domains: tuple[str, ...] = ()
    domain_of: Rows | None = None
    unreadable: int = 0
    owners: tuple[str, ...] = ()
    owner_of: Rows | None = None
    group_of: Rows | None = None
    vocabulary: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kind(self) -> str:
        """``images``, ``series`` or ``tokens``."""
        if self.inputs.is_floating_point():
            return SERIES
        return TOKENS if self.vocabulary else IMAGES

    def digest(self) -> str:
        """A hash that changes with any byte of any input or label, and with any owner or group."""
        seen = blake2b(digest_size=16)
        seen.update(np.ascontiguousarray(self.inputs.numpy()).data)
        seen.update(self.labels.data)
        for more in (self.owner_of, self.group_of):
            if more is not None:
                seen.update(np.ascontiguousarray(more, "<i8").data)
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
        train: Inputs and their labels [N]. Inputs are images, uint8 [N, H, W] or [N, H, W, C] with
            C = 1 or 3; measurements, real numbers [N, ...]; or tokens, whole numbers [N, T].
        test: The same; may be empty.
        classes: Names; the numbers of the labels where empty.

    """
    parts = [_stored(where, part, *of) for part, of in (("train", train), ("test", test))]
    if parts[0].dtype != parts[1].dtype:
        raise InputError(
            f"{where}: x_train is {train[0].dtype} and x_test {test[0].dtype}; both must be images "
            "(uint8), or both numbers of one kind"
        )
    if parts[0].shape[1:] != parts[1].shape[1:]:
        raise InputError(
            f"{where}: training images are {tuple(parts[0].shape[1:])} and test images "
            f"{tuple(parts[1].shape[1:])}; they must have one shape"
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
    inputs = torch.cat(parts)
    vocabulary = int(inputs.max()) + 1 if inputs.dtype == torch.int64 else 0
    return Store(inputs, labels, len(train[1]), names, vocabulary=vocabulary)


def store_of(
    where: str,
    images: Any,
    labels: Sequence[Any] | np.ndarray,
    domains: Sequence[Any] | np.ndarray | None = None,
    *,
    clients: Sequence[Any] | np.ndarray | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    classes: Sequence[str] | np.ndarray = (),
) -> Store:
    """Put inputs without an official test part into a store, after checks.

    Args:
        where: The data set, for errors.
        images: See ``make_store``.
        labels: Whole numbers from 0, or words, which become classes in sorted order, [N].
        domains: Likewise the domain of each input, [N].
        clients: Whose each input is: a word or any whole number, [N].
        groups: Which inputs are nearly the same: a word or any whole number, [N]. Equal ones of
            different clients are different groups.
        classes: Names, where labels are numbers.

    Raises:
        InputError: A shape, a type or a label is not allowed.

    """
    values = np.asarray(images)
    numbers, words = _numbered(labels)
    nothing = (values[:0], numbers[:0])
    store = make_store(where, (values, numbers), nothing, words or tuple(map(str, classes)))
    if domains is not None:
        domain_of, names = _numbered(domains)
        _check_one_each(where, "domains", domain_of, len(store))
        if int(domain_of.min()) < 0 or int(domain_of.max()) >= len(domain_of):
            raise InputError(
                f"{where}: domains run from {domain_of.min()} to {domain_of.max()}; they must be "
                "numbered from 0, and each needs an image"
            )
        names = names or tuple(map(str, range(int(domain_of.max()) + 1)))
        if not np.bincount(domain_of, minlength=len(names)).all():
            raise InputError(f"{where}: domains must be numbered from 0, and each needs an image")
        store = replace(store, domains=names, domain_of=domain_of.astype(np.int64))
    if clients is not None:
        owners, owner_of = _distinct(where, "client", clients, len(store))
        store = replace(store, owners=tuple(map(str, owners)), owner_of=owner_of)
    if groups is not None:
        _, group_of = _distinct(where, "group", groups, len(store))
        if store.owner_of is not None:
            pairs = np.stack((store.owner_of, group_of), axis=1)
            group_of = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
        store = replace(store, group_of=group_of.astype(np.int64))
    return store


def _distinct(where: str, name: str, values: Any, count: int) -> tuple[np.ndarray, Rows]:
    """The different values, sorted, and which of them each input has, [N]."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuU" or array.shape != (count,):
        _check_one_each(where, name, array, count)
    different, numbers = np.unique(array, return_inverse=True)
    return different, numbers.reshape(array.shape).astype(np.int64)


def _check_one_each(where: str, name: str, array: np.ndarray, count: int) -> None:
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise InputError(
            f"{where}: {name} is {array.dtype} {list(array.shape)}; it must be one word or whole "
            f"number for each of the {count} images"
        )


def _numbered(values: Sequence[Any] | np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers [N] and the words they stand for, in sorted order; no words where numbers came."""
    array = np.asarray(values)
    if array.dtype.kind != "U":
        return array, ()
    words, numbers = np.unique(array, return_inverse=True)
    return numbers.reshape(array.shape), tuple(map(str, words))


def _stored(where: str, part: str, inputs: np.ndarray, labels: np.ndarray) -> Tensor:
    """Inputs as they are kept: uint8 [N, C, H, W], float32 [N, ...] or int64 [N, T]."""
    if labels.shape != (len(inputs) if inputs.ndim else 0,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{where}: y_{part} is {labels.dtype} {list(labels.shape)}; it must be one whole "
            f"number for each of the {len(inputs) if inputs.ndim else 0} images"
        )
    if inputs.dtype.kind == "f" and inputs.ndim >= 2 and 0 not in inputs.shape[1:]:
        return _measurements(where, part, inputs)
    if inputs.dtype.kind in "iu" and inputs.ndim == 2 and inputs.shape[1]:
        return _tokens(where, part, inputs)
    if inputs.dtype != np.uint8 or inputs.ndim not in (3, 4):
        raise InputError(
            f"{where}: x_{part} is {inputs.dtype} {list(inputs.shape)}; it must be images, uint8 "
            "[N, H, W] or [N, H, W, C], real numbers [N, ...], or tokens, whole numbers [N, T]"
        )
    return _planes(where, part, inputs)


def _planes(where: str, part: str, images: np.ndarray) -> Tensor:
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
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _measurements(where: str, part: str, values: np.ndarray) -> Tensor:
    with np.errstate(over="ignore"):
        plain = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(plain).all():
        raise InputError(f"{where}: x_{part} holds values that are not finite numbers")
    return torch.from_numpy(plain)


def _tokens(where: str, part: str, values: np.ndarray) -> Tensor:
    if values.size and (int(values.min()) < 0 or int(values.max()) >= MOST_TOKENS):
        raise InputError(
            f"{where}: x_{part} has tokens from {values.min()} to {values.max()}; they must be 0 "
            f"to {MOST_TOKENS - 1}"
        )
    return torch.from_numpy(np.ascontiguousarray(values, np.int64))
