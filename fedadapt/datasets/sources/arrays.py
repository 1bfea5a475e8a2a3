"""Arrays of a user's own: a plain ``.npz`` under any name, or the same from a function.

Keys are ``x`` and ``y``, and optional ``client``, ``group``, ``domain`` and ``classes``.
"""

from collections.abc import Mapping
from typing import Any

from fedadapt.datasets.entries import NPZ, DataEntry
from fedadapt.datasets.sources.image_store import Store, store_of
from fedadapt.datasets.sources.npz import read_arrays
from fedadapt.errors import InputError, nearest
from fedadapt.files import user_path

KEYS = ("x", "y", "client", "group", "domain", "classes")


def read_clients_arrays(entry: DataEntry) -> Store:
    """Read the file in ``npz:/path``.

    Raises:
        InputError: It is no such file, or an array is not what it must be.

    """
    text = entry.name.removeprefix(NPZ)
    if not text:
        raise InputError(f"benchmark: {NPZ!r} names no file; write {NPZ}/path/to/data.npz")
    path = user_path(text, "benchmark: npz")
    return store_of_arrays(str(path), read_arrays(path, ("x", "y"), KEYS[2:]))


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
