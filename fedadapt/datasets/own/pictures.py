"""The pictures in an owner's folder: ``<class>/*.jpg``, and ``unlabelled/*.jpg``.

No torch, no numpy. Names are the owner's: they reach a log only as ``shown`` writes them, and they
leave the device only where the owner allows it.
"""

import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

from fedadapt.datasets.sources.image_folder import SUFFIXES
from fedadapt.errors import InputError, RefusedError, shown

UNLABELLED = "unlabelled"
"""The folder of pictures whose class nobody has told."""
LONGEST_NAME = 100  # characters of a class name


class Picture(NamedTuple):
    """One file of an owner."""

    path: Path
    label: str | None  # the class; None where nobody has told


def list_pictures(folder: Path) -> list[Picture]:
    """The pictures below ``folder``, sorted by path; hidden files and folders are left out.

    Raises:
        RefusedError: No such folder, no pictures in it, or a class folder whose name is no class.

    """
    if not folder.is_dir():
        raise RefusedError("no-images", f"images: {shown(folder)} is no folder")
    pictures = []
    for name in _entries(folder, folders=True):
        label = None if name == UNLABELLED else _class_of(name)
        pictures += [
            Picture(folder / name / file, label)
            for file in _entries(folder / name, folders=False)
            if file.lower().endswith(SUFFIXES)
        ]
    if not pictures:
        raise RefusedError(
            "no-images",
            f"images: {shown(folder)} holds no pictures; they must lie in <class>/*.jpg",
        )
    return pictures


def class_name(text: str) -> str:
    """A class as it is compared everywhere: composed Unicode (NFC), whatever the file system.

    Raises:
        InputError: It is empty, too long, not UTF-8, or has commas or characters that do not print.

    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name or len(name) > LONGEST_NAME or "," in name or not name.isprintable():
        raise InputError(
            f"class {shown(text)}: a name has 1 to {LONGEST_NAME} characters that print, no comma"
        )
    return name


def _class_of(folder: str) -> str:
    try:
        return class_name(folder)
    except InputError as error:
        raise RefusedError("bad-class-name", f"images: {error}") from None


def _entries(folder: Path, *, folders: bool) -> list[str]:
    """Entries of a folder, sorted; only folders, or only regular files: a pipe would hang."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and (entry.is_dir() if folders else entry.is_file())
            )
    except OSError as error:
        raise RefusedError(
            "no-images", f"images: {shown(folder)} cannot be read: {error.strerror}"
        ) from None
