"""Paths of data sets: the data root, and what lies below it. No torch, no numpy."""

import ast
import os
import zipfile
from pathlib import Path

from fedadapt.datasets.entries import CLIENTS, FOLDER, DataEntry
from fedadapt.errors import InputError
from fedadapt.files import user_path


def data_root(given_root: str = "") -> Path | None:
    """The folder of real data sets: the one given, else ``$FEDADAPT_DATA``, else None."""
    text = given_root or os.environ.get("FEDADAPT_DATA", "")
    return user_path(text, "data-root") if text else None


def check_root(name: str, given_root: str) -> Path:
    """The data root, which must exist.

    Args:
        name: The data set that is to be read from it, for messages.

    Raises:
        InputError: No data root is given, or it is no folder.

    """
    root = data_root(given_root)
    if root is None:
        raise InputError(
            f"data-root: {name} is read from a folder and none is given; set --data-root or "
            "FEDADAPT_DATA"
        )
    if not root.is_dir():
        raise InputError(f"data-root: {root} is no folder; make it or name another")
    return root


def folder_of(entry: DataEntry, given_root: str) -> Path:
    """The image folder of a benchmark that is one.

    Raises:
        InputError: It is not below the data root.

    """
    for prefix in (FOLDER, CLIENTS):
        if entry.name.startswith(prefix):
            return folder_path(entry.name, prefix)
    root = check_root(entry.name, given_root)
    for name in entry.folders:
        if (root / name).is_dir():
            return root / name
    raise InputError(
        f"{root}: {entry.name} is not there; put its folder {' or '.join(entry.folders)} there, "
        "as <domain>/<class>/*.jpg"
    )


def folder_path(benchmark: str, prefix: str = FOLDER) -> Path:
    """The folder in ``folder:/path``."""
    text = benchmark.removeprefix(prefix)
    if not text:
        raise InputError(f"benchmark: {prefix!r} names no folder; write {prefix}/path")
    return user_path(text, f"benchmark: {prefix.rstrip(':')}")


def npz_path(entry: DataEntry, root: Path) -> Path:
    """The plain file that stands in for torchvision's: ``<name>.npz``."""
    return root / f"{entry.data or entry.name}.npz"


def npz_stands_in(entry: DataEntry, given_root: str) -> bool:
    """Whether a ``<name>.npz`` is under the data root; it may hold any number of images."""
    root = data_root(given_root)
    return root is not None and bool(entry.files) and npz_path(entry, root).is_file()


def npz_lengths(path: Path) -> dict[str, int]:
    """Return the length of each array of a ``.npz`` file, from its headers alone.

    {} where it is none: who reads it says what is wrong.
    """
    lengths = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                with archive.open(info) as file:
                    _, version = file.read(6), file.read(2)
                    size = file.read(2 if version[0] == 1 else 4)  # as numpy.lib.format has it
                    header = ast.literal_eval(file.read(int.from_bytes(size, "little")).decode())
                shape = header["shape"]
                lengths[info.filename.removesuffix(".npy")] = int(shape[0]) if shape else 1
    except Exception:  # a broken file can raise anything
        return {}
    return lengths


def missing_files(entry: DataEntry, root: Path) -> tuple[str, ...]:
    """Which of torchvision's files are not below ``root``."""
    return tuple(name for name in entry.files if not (root / name).exists())
