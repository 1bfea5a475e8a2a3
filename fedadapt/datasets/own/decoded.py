"""An owner's picture files as arrays, decoded once: a small computer takes minutes for a thousand.

What was decoded is kept beside the cut, by the size of the pictures, and taken again where path,
length and time of change of a file are the same.
"""

import json
import logging
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedadapt.datasets.own.looks import Look, difference_hash, taken_at
from fedadapt.datasets.own.pictures import Picture
from fedadapt.datasets.sources.decode import MOST_BYTES, read_image, read_upright
from fedadapt.errors import InputError, shown
from fedadapt.files import write_atomically

log = logging.getLogger(__name__)

_VERSION = 1  # of what is kept: other rules of decoding make it worthless
_GREY = (64, 64)  # a picture is decoded no smaller than this for its look


class Decoded(NamedTuple):
    """The pictures that could be read."""

    pictures: list[Picture]
    looks: list[Look]
    pixels: NDArray[np.uint8]  # [N, 3, S, S]
    unreadable: int


def decode_pictures(pictures: Sequence[Picture], size: int, kept_in: Path | None) -> Decoded:
    """Decode what is not known yet.

    Args:
        size: Pixels a side.
        kept_in: The folder of what was decoded before; None: nothing is kept.

    Raises:
        InputError: The pictures do not fit in memory.

    """
    if len(pictures) * size * size * 3 > MOST_BYTES:
        raise InputError(
            f"image-size: {len(pictures)} pictures of {size} x {size} need "
            f"{len(pictures) * size * size * 3 / 2**30:.0f} GiB; give a smaller one"
        )
    stamps = [_stamp(picture.path) for picture in pictures]
    before, arrays = _read_kept(kept_in, size)
    rows = [before.get(stamp) for stamp in stamps]
    missing = [n for n, row in enumerate(rows) if row is None]
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        warnings.simplefilter("ignore")
        read = dict(
            zip(
                missing,
                threads.map(lambda n: _read(pictures[n].path, size), missing),
                strict=True,
            )
        )
    there = [n for n, row in enumerate(rows) if row is not None or read[n] is not None]
    pixels = np.empty((len(there), 3, size, size), np.uint8)
    looks = []
    for position, n in enumerate(there):
        row, new = rows[n], read.get(n)
        if row is not None:
            looks.append(row[1])
            pixels[position] = arrays[row[0]]
        elif new is not None:
            looks.append(new[0])
            pixels[position] = new[1]
    unreadable = sorted(set(range(len(pictures))) - set(there))
    if unreadable:
        log.warning(
            "%d of %d pictures cannot be read and are left out; the first is %s",
            len(unreadable), len(pictures), shown(pictures[unreadable[0]].path),
        )  # fmt: skip
    stamped = [stamps[n] for n in there]
    if kept_in is not None and (missing or len(there) != len(before)):
        _keep(kept_in, size, stamped, looks, pixels)
    return Decoded([pictures[n] for n in there], looks, pixels, len(unreadable))


def _read(path: Path, size: int) -> tuple[Look, NDArray[np.uint8]] | None:
    """One file's look and its pixels [3, S, S]; None where it is no readable picture."""
    try:
        digest = blake2b(path.read_bytes(), digest_size=16).hexdigest()
        with Image.open(path) as file:
            taken = taken_at(file.getexif())
    except Exception:  # damaged files raise anything
        return None
    whole = read_upright(str(path), _GREY)
    pixels = read_image(str(path), size)
    if whole is None or pixels is None:
        return None
    return Look(digest, difference_hash(whole), taken), pixels.transpose(2, 0, 1)


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path}|gone"
    return f"{path}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"


def _table(folder: Path, size: int) -> Path:
    return folder / f"decoded-{size}.json"


def _read_kept(
    folder: Path | None, size: int
) -> tuple[dict[str, tuple[int, Look]], NDArray[np.uint8]]:
    """Stamp -> row and look, and the rows. What cannot be read is as if it had not been kept."""
    nothing = np.empty((0, 3, size, size), np.uint8)
    if folder is None:
        return {}, nothing
    table = _table(folder, size)
    try:
        document = json.loads(table.read_text("utf-8"))
        if document["version"] != _VERSION:
            return {}, nothing
        arrays = np.load(folder / document["pixels"], mmap_mode="r", allow_pickle=False)
        if arrays.shape != (len(document["rows"]), *nothing.shape[1:]) or arrays.dtype != np.uint8:
            return {}, nothing
        return {
            stamp: (row, Look(digest, bytes.fromhex(bits), taken))
            for row, (stamp, digest, bits, taken) in enumerate(document["rows"])
        }, arrays
    except (OSError, ValueError, KeyError, TypeError):
        return {}, nothing


def _keep(
    folder: Path,
    size: int,
    stamps: Sequence[str],
    looks: Sequence[Look],
    pixels: NDArray[np.uint8],
) -> None:
    """Keep what was decoded; a disk without room costs time later, nothing else."""
    table = _table(folder, size)
    rows = [
        [stamp, look.digest, look.bits.hex(), look.taken]
        for stamp, look in zip(stamps, looks, strict=True)
    ]
    # The rows have a name of their own: table and rows are then of the same moment.
    named = f"decoded-{size}-{blake2b(json.dumps(rows).encode(), digest_size=8).hexdigest()}.npy"
    text = json.dumps({"version": _VERSION, "pixels": named, "rows": rows})
    try:
        write_atomically(
            folder / named, lambda out: np.save(out, pixels, allow_pickle=False), mode=0o600
        )
        write_atomically(table, text.encode(), mode=0o600)
        for old in folder.glob(f"decoded-{size}-*.npy"):
            if old.name != named:
                old.unlink(missing_ok=True)
    except OSError as error:
        log.warning("decoded pictures could not be kept: %s", error)
