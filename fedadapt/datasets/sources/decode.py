"""Decode an image folder: every file once, to RGB squares of one size."""

import os
import stat
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedadapt.datasets.entries import DataEntry
from fedadapt.datasets.sources.files import folder_of
from fedadapt.datasets.sources.image_folder import Listing, list_images
from fedadapt.datasets.sources.image_store import MOST_PIXELS, Store
from fedadapt.errors import InputError

Progress = Callable[[int, int], None]
"""Called with the number of images that are done and of all images."""

MOST_UNREADABLE = 0.01
"""Share of the files that may be unreadable; they are left out and counted."""
MOST_BYTES = 16 * 2**30
"""Memory the images may take; a folder of photographs needs ``image-size``."""

_MOST_PIXELS = 2**27  # of one file: 134 megapixels are no photograph, but a trap
_CHUNK = 64


def read_folder(
    entry: DataEntry, root: str, image_size: int, progress: Progress | None = None
) -> Store:
    """Read the images of a benchmark that is a folder, wherever it lies.

    Args:
        root: The data root; a ``folder:/path`` needs none.
        image_size: Pixels a side; 0: the benchmark's own, or those of the first image.

    """
    listing = list_images(folder_of(entry, root))
    return decode(listing, image_size or entry.image_size, progress)


def read_clients(
    entry: DataEntry, root: str, image_size: int, progress: Progress | None = None
) -> Store:
    """Read ``<client>/<class>/*.jpg``: every outer folder is a client.

    Args:
        root: Not needed.
        image_size: Pixels a side; 0: those of the first image.

    """
    store = read_folder(entry, root, image_size, progress)
    return replace(
        store, owners=store.domains, owner_of=store.domain_of, domains=(), domain_of=None
    )


def decode(listing: Listing, image_size: int, progress: Progress | None = None) -> Store:
    """Read every image: the shorter side becomes ``image_size``, the middle square is kept.

    Args:
        image_size: Pixels a side; 0 takes the shorter side of the first image that can be read.

    Raises:
        InputError: Too many unreadable files, a class without a readable one, or too much memory.

    """
    files = listing.files
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size = image_size or _first_side(listing)
    if len(files) * size * size * 3 > MOST_BYTES:
        raise InputError(
            f"folder:{listing.root}: {len(files)} images of {size}x{size} need "
            f"{len(files) * size * size * 3 / 2**30:.0f} GiB; set image-size, e.g. 96"
        )
    if size > MOST_PIXELS:
        raise InputError(
            f"folder:{listing.root}: its first image has {size} pixels a side, and at most "
            f"{MOST_PIXELS} are taken; set image-size, e.g. 96"
        )
    pixels = np.zeros((len(files), 3, size, size), np.uint8)
    readable = np.zeros(len(files), bool)

    def read(start: int) -> int:
        stop = min(start + _CHUNK, len(files))
        for number in range(start, stop):
            image = read_image(os.path.join(listing.root, files[number].path), size)
            if image is not None:
                pixels[number] = image.transpose(2, 0, 1)
                readable[number] = True
        return stop

    # Pillow lets other threads run while it decodes, and warns of what is handled here.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        warnings.simplefilter("ignore")
        for done in threads.map(read, range(0, len(files), _CHUNK)):
            if progress:
                progress(done, len(files))
    labels = np.array([f.label for f in files], np.int64)
    _refuse_bad(listing, readable, labels)
    planes = pixels if readable.all() else pixels[readable]
    return Store(
        torch.from_numpy(planes),
        labels[readable],
        len(planes),
        listing.classes,
        listing.domains,
        np.array([f.domain for f in files], np.int64)[readable],
        int((~readable).sum()),
    )


def read_image(path: str, size: int) -> NDArray[np.uint8] | None:
    """One image as uint8 [size, size, 3]; None where the file cannot be read.

    Grey, CMYK, 16-bit, transparent, animated (first frame) and camera-rotated images become
    upright RGB. A file that unpacks to absurdly many pixels counts as unreadable.
    """
    image = read_upright(path, (size, size))  # JPEG: decode no more than is needed
    if image is None:
        return None
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def read_upright(path: str, draft: tuple[int, int] | None = None) -> Image.Image | None:
    """One image as upright RGB in its own size; None where the file cannot be read.

    Args:
        draft: A JPEG may come smaller, but not smaller than this.

    """
    try:
        with _regular(path) as content, Image.open(content) as file:
            if file.width * file.height > _MOST_PIXELS:
                return None
            if draft is not None:
                file.draft("RGB", draft)
            return _rgb(ImageOps.exif_transpose(file))
    except Exception:  # a broken file can raise anything
        return None


def _regular(path: str) -> BinaryIO:
    """Open a file; a pipe or a device, which may never end or never begin, is refused.

    Raises:
        OSError: It is none, or cannot be opened.

    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{path} is no regular file")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 bits and more: Pillow would clip them at 255
        values = np.asarray(image, np.float64)
        scale = 255 / 65535 if values.max() > 255 else 1.0
        image = Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return image.convert("RGB")


def _first_side(listing: Listing) -> int:
    for file in listing.files:
        image = read_upright(os.path.join(listing.root, file.path))
        if image is not None:
            return min(image.size)
    raise InputError(
        f"folder:{listing.root}: {listing.files[0].path} and all others are unreadable"
    )


def _refuse_bad(listing: Listing, readable: NDArray[np.bool_], labels: NDArray[np.int64]) -> None:
    bad = np.flatnonzero(~readable)
    if len(bad) > MOST_UNREADABLE * len(readable):
        raise InputError(
            f"{listing.root / listing.files[bad[0]].path}: is no readable image ({len(bad)} of "
            f"{len(readable)} files are not); repair or remove them"
        )
    counts = np.bincount(labels[readable], minlength=len(listing.classes))
    if not counts.all():
        empty = listing.classes[int(np.flatnonzero(counts == 0)[0])]
        raise InputError(f"folder:{listing.root}: class {empty!r} has no readable image")
