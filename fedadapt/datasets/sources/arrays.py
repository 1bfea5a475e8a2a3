"""Arrays of a user's own: a plain ``.npz`` under any name, or the same from a function.

Keys are ``x`` and ``y``, and optional ``client``, ``group``, ``domain`` and ``classes``.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedadapt.datasets.entries import NPZ, DataEntry
from fedadapt.datasets.sources.image_store import Store, store_of
from fedadapt.errors import InputError, nearest

KEYS = ("x", "y", "client", "group", "domain", "classes")


def read_arrays(entry: DataEntry) -> Store:
    """Read the file in ``npz:/path``.

    Raises:
        InputError: It is no such file, or an array is not what it must be.

    """
    text = entry.name.removeprefix(NPZ)
    if not text:
        raise InputError(f"benchmark: {NPZ!r} names no file; write {NPZ}/path/to/data.npz")
    path = Path(text).expanduser()
    return store_of_arrays(f"benchmark: {str(path)!r}", read_file(path))


def read_file(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a plain ``.npz``; no code in the file is run.

    Raises:
        InputError: It cannot be read.

    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if not hasattr(file, "files"):
                raise InputError(f"{path}: holds one array; it must be an .npz with x and y")
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); it must be a plain .npz") from None


def store_of_arrays(where: str, arrays: Mapping[str, Any]) -> Store:
    """Make a store of arrays by name.

    Args:
        where: The data set, for errors.
        arrays: See ``store_of``: ``x`` are its images, ``y`` its labels.

    Raises:
        InputError: An array is missing, unknown or not what it must be.

    """
    for name in arrays:
        if name not in KEYS:
            raise InputError(f"{where}: unknown array {name!r}{nearest(str(name), KEYS)}; known: "
                             f"{', '.join(KEYS)}")  # fmt: skip
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        raise InputError(f"{where}: lacks {' and '.join(missing)}; known: {', '.join(KEYS)}")
    return store_of(
        where,
        arrays["x"],
        arrays["y"],
        arrays.get("domain"),
        clients=arrays.get("client"),
        groups=arrays.get("group"),
        classes=arrays.get("classes", ()),
    )
