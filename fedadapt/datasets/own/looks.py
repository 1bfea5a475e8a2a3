"""What two pictures are compared by: their bytes, how they look, and when they were taken."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16
"""A picture looks like a grid of so many brightness steps a side: 256 bits in all."""
BITS = SIDE * SIDE
NEAR = 16
"""Pictures of which at most so many of the 256 bits differ are the same scene.

What was measured of it on photographs, drawings and camera traps is in docs/flower.md.
"""
BURST = 1.0
"""Pictures that were taken at most so many seconds apart are of one burst."""
_BLOCK = 256  # rows of the table of distances at once
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)
_TAKEN, _PARTS, _EXIF = 0x9003, 0x9291, 0x8769  # DateTimeOriginal, its fraction, their folder


class Look(NamedTuple):
    """One picture."""

    digest: str  # of the file's bytes, hexadecimal
    bits: bytes  # difference hash, ``BITS`` bits; empty: compared by bytes alone
    taken: float | None = None  # seconds, by the camera's clock
    scene: str = ""  # pictures of one scene belong together, by the word of whoever made them


def difference_hash(image: Image.Image) -> bytes:
    """Whether each cell of a 17 x 16 grey picture is brighter than its right neighbour, 256 bits.

    It survives another size, another compression and a little light. A picture without any
    contrast has no look: all such pictures would be the same.
    """
    grey = np.asarray(
        image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.LANCZOS), np.int16
    )
    steps = grey[:, 1:] < grey[:, :-1]
    return np.packbits(steps).tobytes() if np.ptp(grey) > SIDE else b""


def taken_at(exif: Image.Exif) -> float | None:
    """When a camera says that it took the picture, in seconds; None where it does not say."""
    try:
        inner = exif.get_ifd(_EXIF)
        moment = datetime.strptime(str(inner[_TAKEN]).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        part = str(inner.get(_PARTS, "")).strip("\0 ")
        return (moment - datetime(1970, 1, 1)).total_seconds() + (
            float(f"0.{part}") if part.isdigit() else 0.0
        )
    except Exception:  # damaged metadata raise anything, and the picture is good without
        return None


def linked(looks: Sequence[Look], first_new: int = 0) -> list[tuple[int, int]]:
    """Which pictures belong together: the same bytes, the same scene, or one burst.

    Args:
        looks: Known pictures first, [n].
        first_new: Where those begin that are not known; pairs of known pictures are left out.

    Returns:
        Pairs of positions (a new picture, any picture).

    """
    return [
        *_alike(looks, first_new, "digest"),
        *_alike(looks, first_new, "scene"),
        *_look_alike(looks, first_new),
        *_bursts(looks, first_new),
    ]


def _alike(looks: Sequence[Look], first_new: int, attribute: str) -> list[tuple[int, int]]:
    """Each new picture beside the first one with the same value of an attribute."""
    first: dict[str, int] = {}
    pairs = []
    for position, look in enumerate(looks):
        value = getattr(look, attribute)
        before = first.setdefault(value, position) if value else position
        if before != position and position >= first_new:
            pairs.append((position, before))
    return pairs


def _look_alike(looks: Sequence[Look], first_new: int) -> list[tuple[int, int]]:
    having = [position for position, look in enumerate(looks) if look.bits]
    new = [position for position in having if position >= first_new]
    if not new:
        return []
    every = _words(looks, having)
    pairs = []
    for start in range(0, len(new), _BLOCK):
        block = new[start : start + _BLOCK]
        apart = _distances(_words(looks, block), every)
        for row, column in np.argwhere(apart <= NEAR).tolist():
            if having[column] < block[row]:
                pairs.append((block[row], having[column]))
    return pairs


def _words(looks: Sequence[Look], positions: Sequence[int]) -> NDArray[np.uint8]:
    """The bits of some pictures, as bytes [n, BITS / 8]."""
    joined = b"".join(looks[position].bits for position in positions)
    return np.frombuffer(joined, np.uint8).reshape(len(positions), BITS // 8)


def _distances(some: NDArray[np.uint8], every: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Number of bits that differ, [m, n]."""
    apart = np.zeros((len(some), len(every)), np.uint16)
    for byte in range(BITS // 8):
        apart += _ONES[some[:, byte, None] ^ every[None, :, byte]]
    return apart


def _bursts(looks: Sequence[Look], first_new: int) -> list[tuple[int, int]]:
    moments = sorted(
        (look.taken, position) for position, look in enumerate(looks) if look.taken is not None
    )
    return [
        (max(one, other), min(one, other))
        for (before, one), (after, other) in pairwise(moments)
        if after - before <= BURST and max(one, other) >= first_new
    ]
