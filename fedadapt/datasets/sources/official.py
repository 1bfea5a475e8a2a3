"""Published data sets below the data root: ``<name>.npz``, or torchvision's files."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedadapt.datasets.entries import DataEntry
from fedadapt.datasets.sources.files import check_root, missing_files, npz_path
from fedadapt.datasets.sources.image_store import Store, make_store
from fedadapt.datasets.sources.npz import read_arrays
from fedadapt.errors import InputError

_PATIENCE = 20.0  # seconds a download may stand still


class _Layout(NamedTuple):
    """How torchvision opens a data set, and what its arrays are called."""

    dataset: str  # class in ``torchvision.datasets``
    arguments: Callable[[bool], dict[str, Any]] = lambda train: {"train": train}
    labels: str = "targets"
    axes: tuple[int, ...] = ()  # the transposition that makes images upright, channels last


_LAYOUTS = {
    "mnist": _Layout("MNIST"),
    "fashion-mnist": _Layout("FashionMNIST"),
    # EMNIST's files hold every image on its side.
    "emnist": _Layout("EMNIST", lambda train: {"split": "balanced", "train": train},
                      axes=(0, 2, 1)),
    "cifar10": _Layout("CIFAR10"),
    "cifar100": _Layout("CIFAR100"),
    "svhn": _Layout("SVHN", lambda train: {"split": "train" if train else "test"}, "labels",
                    (0, 2, 3, 1)),
    "usps": _Layout("USPS"),
}  # fmt: skip


def read_official(entry: DataEntry, root: str) -> Store:
    """Read a data set: ``<name>.npz`` where it is below the data root, else torchvision's files.

    Raises:
        InputError: Nothing there and nothing to be downloaded, or a damaged file.

    """
    folder = check_root(entry.name, root)
    npz = npz_path(entry, folder)
    return read_npz(npz) if npz.is_file() else _read_torchvision(entry, folder)


def read_npz(path: Path) -> Store:
    """Read ``x_train, y_train, x_test, y_test``, and ``classes`` (names) if it is there."""
    needed = ("x_train", "y_train", "x_test", "y_test")
    arrays = read_arrays(path, needed, ("classes",))
    names = arrays.get("classes", np.array([], str))
    if names.ndim != 1 or names.dtype.kind not in "iuU":
        raise InputError(
            f"{path}: classes is {names.dtype} {list(names.shape)}; it must be a list of words"
        )
    return make_store(
        str(path),
        (arrays["x_train"], arrays["y_train"]),
        (arrays["x_test"], arrays["y_test"]),
        tuple(map(str, names)),
    )


def _read_torchvision(entry: DataEntry, root: Path) -> Store:
    missing = missing_files(entry, root)
    layout = _LAYOUTS[entry.data or entry.name]
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)  # torchvision sets none: it could wait for ever
    try:
        train, test = (_open(layout, root, part, bool(missing)) for part in (True, False))
        return make_store(str(root), _arrays(layout, train), _arrays(layout, test), _names(train))
    except InputError:
        raise
    except Exception as error:  # a reader of damaged files may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        if missing:
            raise InputError(
                f"{root}: {entry.name} is not there and cannot be downloaded ({reason}); "
                f"put {', '.join(missing)} there, or {entry.name}.npz"
            ) from None
        raise InputError(
            f"{root}: {entry.name} is damaged ({reason}); remove {', '.join(entry.files)} so that "
            "they are downloaded again"
        ) from None
    finally:
        socket.setdefaulttimeout(patience)


def _open(layout: _Layout, root: Path, train: bool, download: bool) -> Any:
    from torchvision import datasets

    dataset = getattr(datasets, layout.dataset)
    return dataset(str(root), **layout.arguments(train), download=download)


def _arrays(layout: _Layout, dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    images = np.asarray(dataset.data)
    labels = np.asarray(getattr(dataset, layout.labels))
    return images.transpose(layout.axes) if layout.axes else images, labels


def _names(dataset: Any) -> tuple[str, ...]:
    """Class names, short: MNIST's "7 - seven" is "7"; numbers where there are none."""
    return tuple(str(name).split(" - ")[0] for name in getattr(dataset, "classes", ()))
