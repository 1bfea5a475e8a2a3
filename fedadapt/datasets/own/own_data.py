"""One owner's data: read from a folder or by a plug-in, and cut as it was cut before."""

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.datasets.entries import IMAGES
from fedadapt.datasets.in_memory import resize
from fedadapt.datasets.own.cut import SIDES, Shares, cut
from fedadapt.datasets.own.decoded import decode_pictures
from fedadapt.datasets.own.lock import locked
from fedadapt.datasets.own.looks import Look
from fedadapt.datasets.own.pictures import class_name, list_pictures
from fedadapt.datasets.own.remembered import cut_digest, read_cut, write_cut
from fedadapt.datasets.own.schema import Schema
from fedadapt.datasets.sources.image_store import store_of
from fedadapt.errors import InputError, RefusedError, shown
from fedadapt.factories import call_factory
from fedadapt.registry import Registry

log = logging.getLogger(__name__)

SOURCES = Registry("data", "fedadapt.own_data", {}, form="module:factory")
"""Data of an owner that are no folder of pictures; other packages name theirs."""


@dataclass(frozen=True)
class OwnSource:
    """Where an owner's data are, and where it is remembered how they were cut."""

    images: str = ""  # the folder of pictures
    data: str = ""  # or a data source by name or ``module:factory``
    state: str = ""  # the folder for what is remembered; empty: nothing is
    shares: Shares = Shares()  # noqa: RUF009, it cannot change

    @property
    def folder(self) -> Path | None:
        """What is remembered about these data; other data have another folder."""
        if not self.state:
            return None
        return Path(self.state) / "own-data"


class OwnData(NamedTuple):
    """An owner's pictures as they are used.

    Attributes:
        split: The three sets, each sorted by content.
        unlabelled: Pictures whose class nobody has told, uint8 [N, C, H, W].
        unreadable: The number of files that could not be read.
        left_out: The number of pictures that would be on two sides.
        digest: Of the cut, with everything that was ever decided.
        pictures: The digests of all pictures that are used.

    """

    split: Split
    unlabelled: Tensor
    unreadable: int
    left_out: int
    digest: str
    pictures: frozenset[str]


class _Read(NamedTuple):
    pixels: Tensor  # uint8 [N, C, H, W]
    looks: list[Look]
    labels: list[str | None]
    unreadable: int

    def limited_to(self, digests: frozenset[str]) -> "_Read":
        """The pictures with these digests."""
        rows = [n for n, look in enumerate(self.looks) if look.digest in digests]
        looks, labels = [self.looks[n] for n in rows], [self.labels[n] for n in rows]
        return _Read(self.pixels[rows], looks, labels, self.unreadable)


def class_names(source: OwnSource) -> tuple[str, ...]:
    """The classes of which the owner has data, sorted. Pictures are not opened for it."""
    if source.images:
        labels = {picture.label for picture in list_pictures(Path(source.images))}
    else:
        labels = set(_read_plug_in(source.data).labels)
    return tuple(sorted(label for label in labels if label is not None))


def image_shape(source: OwnSource, image_size: int) -> tuple[int, int, int]:
    """(C, H, W) of the owner's data when they are used with ``image_size``.

    Raises:
        InputError: A folder of pictures, and no size is given.
        RefusedError: There are no pictures in it.

    """
    if not source.images:
        channels, height, width = _shape(_read_plug_in(source.data).pixels)
        return (channels, image_size or height, image_size or width)
    if not image_size:
        raise InputError("image-size: pictures of many sizes need one, e.g. image-size=96")
    list_pictures(Path(source.images))
    return (3, image_size, image_size)


def read_own_data(source: OwnSource, schema: Schema, only: frozenset[str] | None = None) -> OwnData:
    """Read the data, cut what is new, and remember it.

    Args:
        only: Digests of the pictures that are used, those with which a run has begun; None: all.

    Raises:
        RefusedError: What there is does not fit the schema, or is too little.

    """
    found = _read(source, schema.image_shape)
    if _shape(found.pixels) != schema.image_shape:
        raise RefusedError(
            "another-shape",
            f"data: pictures are {_shape(found.pixels)}, the run's {schema.image_shape}",
        )
    if only is not None:
        found = found.limited_to(only)
    labelled = [n for n, label in enumerate(found.labels) if label is not None]
    names = [str(found.labels[n]) for n in labelled]
    unknown = sorted({*names} - {*schema.classes})
    if unknown:
        raise RefusedError(
            "unknown-class",
            f"data: class {shown(unknown[0])} is not among the run's {len(schema.classes)}; "
            "rename or move its folder",
        )
    looks = [found.looks[n] for n in labelled]
    folder = source.folder
    with locked(folder) if folder is not None else nullcontext():
        known, shares = read_cut(folder, source.shares) if folder else ({}, source.shares)
        result = cut(looks, names, known, shares)
        if folder is not None and result.known != known:
            write_cut(folder, result.known, shares)
    if result.left_out:
        log.warning("%d pictures belong on two sides and are left out", result.left_out)
    parts = []
    for side in SIDES:
        # Sorted by content: names and the order of files have no influence on training.
        rows = sorted(
            (n for n, at in zip(labelled, result.sides, strict=True) if at == side),
            key=lambda n: (found.looks[n].digest, str(found.labels[n])),
        )
        labels = [schema.classes.index(str(found.labels[n])) for n in rows]
        parts.append(Examples(found.pixels[rows], torch.tensor(labels, dtype=torch.int64)))
    if not all(len(part) for part in parts):
        raise RefusedError(
            "too-few-pictures",
            f"data: {len(labelled)} pictures make {len({*result.sides} - {None})} of the sets "
            "train, adapt and test; three pictures of different scenes are the least",
        )
    unlabelled = [n for n, label in enumerate(found.labels) if label is None]
    return OwnData(
        Split(*parts),
        found.pixels[unlabelled],
        found.unreadable,
        result.left_out,
        cut_digest(result.known, shares),
        frozenset(look.digest for look in found.looks),
    )


def _read(source: OwnSource, shape: tuple[int, int, int]) -> _Read:
    if not source.images:
        found = _read_plug_in(source.data)
        return found._replace(pixels=resize(found.pixels, shape[1:]))
    pictures = list_pictures(Path(source.images))
    folder = source.folder
    if folder is not None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    decoded = decode_pictures(pictures, shape[1], folder)
    labels = [picture.label for picture in decoded.pictures]
    return _Read(torch.from_numpy(decoded.pixels), decoded.looks, labels, decoded.unreadable)


def _read_plug_in(name: str) -> _Read:
    """Call an owner's function: it returns (images, labels) or (images, labels, scenes).

    Raises:
        InputError: It cannot be called, or returns something else.

    """
    returned = call_factory("data", name, SOURCES.find(name), {}, "no arguments")
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        raise InputError(
            f"data: {name!r} returned a {type(returned).__name__}; it must return (images, labels) "
            "or (images, labels, scenes)"
        )
    images, given, *rest = returned
    labels = [_label(value) for value in np.asarray(given, dtype=object).tolist()]
    scenes = _scenes(name, rest[0] if rest else None, len(labels))
    words = np.array(["-" if label is None else label for label in labels], dtype=np.str_)
    store = store_of(f"data: {name!r}", images, words)
    if store.kind != IMAGES:
        raise InputError(f"data: {name!r} returned {store.kind}; it must return images, uint8")
    pixels = store.inputs
    looks = [
        Look(_digest(image), b"", None, scene)
        for image, scene in zip(pixels.numpy(), scenes, strict=True)
    ]
    return _Read(pixels, looks, labels, 0)


def _label(value: Any) -> str | None:
    """A class by name; whole numbers are names as well, None and -1 are no class."""
    return None if value is None or value == -1 else class_name(str(value))


def _scenes(name: str, given: Any, count: int) -> list[str]:
    words = [""] * count if given is None else [str(word) for word in given]
    if len(words) != count:
        raise InputError(f"data: {name!r}: {len(words)} scenes for {count} pictures; one a picture")
    return words


def _digest(image: NDArray[Any]) -> str:
    return blake2b(np.ascontiguousarray(image).data, digest_size=16).hexdigest()


def _shape(pixels: Tensor) -> tuple[int, int, int]:
    channels, height, width = pixels.shape[1:]
    return int(channels), int(height), int(width)


class Sums(NamedTuple):
    """What the mean and the deviation of each channel are made of: whole numbers, no picture's."""

    total: list[int]  # of the bytes of a channel, over all training pictures
    squares: list[int]
    pixels: int


def channel_sums(examples: Examples) -> Sums:
    """Sum over all pictures; sums of several clients add up to those of their pictures together."""
    channels = examples.inputs.transpose(0, 1).flatten(1).long()
    return Sums(channels.sum(1).tolist(), channels.square().sum(1).tolist(), int(channels.shape[1]))
