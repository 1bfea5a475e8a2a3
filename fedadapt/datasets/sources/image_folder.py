"""The files of an image folder, ``<domain>/<class>/*.jpg``, in an order that never changes.

No torch, no numpy. Links are followed, but only two folders deep, so a loop of links ends.
"""

import os
from pathlib import Path
from typing import NamedTuple
from unicodedata import category

from fedadapt.errors import InputError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageFile(NamedTuple):
    """One image: where it is, and the numbers of its domain and class."""

    path: str  # relative to the folder, with forward slashes
    domain: int
    label: int


class Listing(NamedTuple):
    """A folder's images, sorted by path; names sorted as well."""

    root: Path
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    files: tuple[ImageFile, ...]


def list_images(root: Path, outer: str = "domain") -> Listing:
    """List the images below ``root``.

    Args:
        outer: What the outer folders stand for, for messages.

    Raises:
        InputError: No such folder, no images, or a class folder without images.

    """
    where = f"folder:{root}"
    if not root.is_dir():
        raise InputError(f"{where}: no such folder; give one with <{outer}>/<class>/*.jpg")
    images_of = {
        (domain, name): images
        for domain in _names(root, folders=True)
        for name in _names(root / domain, folders=True)
        if (images := _images(root / domain / name))
    }
    if not images_of:
        raise InputError(f"{where}: holds no images; they must lie in <{outer}>/<class>/*.jpg")
    domains = sorted({domain for domain, _ in images_of})
    classes = sorted({name for _, name in images_of})
    if len(classes) < 2:
        raise InputError(f"{where}: has one class, {classes[0]!r}; at least two are needed")
    files = [
        ImageFile(f"{domain}/{name}/{image}", domains.index(domain), classes.index(name))
        for (domain, name), images in sorted(images_of.items())
        for image in images
    ]
    return Listing(root, tuple(domains), tuple(classes), tuple(files))


def _images(folder: Path) -> list[str]:
    images = [n for n in _names(folder, folders=False) if n.lower().endswith(SUFFIXES)]
    if not images:
        raise InputError(
            f"{folder}: class {folder.name!r} has no images; add some or remove the folder"
        )
    return images


def _names(folder: Path, *, folders: bool) -> list[str]:
    """Entries of a folder, sorted; hidden ones are left out. A broken link counts as a file."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                e.name for e in entries if not e.name.startswith(".") and e.is_dir() == folders
            )
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None
    for name in names:
        _check_name(folder, name)
    return names


def _check_name(folder: Path, name: str) -> None:
    """Refuse a name that no file of the run could hold, or that a terminal would obey."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        shown = ascii(os.fsencode(name))[1:]
        raise InputError(f"{folder}: the name {shown} is not UTF-8; rename it") from None
    if any(category(c) == "Cc" for c in name):
        raise InputError(f"{folder}: the name {name!a} has control characters; rename it")
