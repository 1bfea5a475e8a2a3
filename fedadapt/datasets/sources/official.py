"""Where images come from: scikit-learn, ``<name>.npz``, or torchvision's files."""

import socket
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fedadapt.datasets.catalog import check_root, missing_files, npz_path
from fedadapt.datasets.entries import Entry
from fedadapt.datasets.sources.image_store import Store, make_store
from fedadapt.errors import InputError

_PATIENCE = 20.0  # seconds a download may stand still


def read_digits() -> Store:
    """scikit-learn's 1,797 digits, 8 x 8; no official test part.

    From its file: importing scikit-learn takes seconds, and memory in each process.
    """
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise InputError(
            "scikit-learn: not installed; the digits come with it: pip install scikit-learn"
        )
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, np.int64, delimiter=",")  # 64 levels from 0 to 16, and the label
    pixels = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    nothing = (np.zeros((0, 8, 8), np.uint8), np.zeros(0, np.int64))
    return make_store("scikit-learn digits", (pixels, table[:, -1]), nothing)


def read_official(entry: Entry, given_root: str) -> Store:
    """A data set below the data root: ``<name>.npz`` where it is there, else torchvision's files.

    Raises:
        InputError: Nothing there and nothing to be downloaded, or a damaged file.

    """
    root = check_root(entry, given_root)
    npz = npz_path(entry, root)
    return read_npz(npz) if npz.is_file() else _read_torchvision(entry, root)


def read_npz(path: Path) -> Store:
    """``x_train, y_train, x_test, y_test``, and ``classes`` (names) if it is there."""
    needed = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in needed if name not in file.files]
            if missing:
                raise InputError(
                    f"{path}: lacks {', '.join(missing)}; it needs {', '.join(needed)}"
                )
            arrays = {name: file[name] for name in needed}
            names = tuple(map(str, file["classes"])) if "classes" in file.files else ()
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); it must be a plain .npz") from None
    return make_store(
        str(path),
        (arrays["x_train"], arrays["y_train"]),
        (arrays["x_test"], arrays["y_test"]),
        names,
    )


def _read_torchvision(entry: Entry, root: Path) -> Store:
    missing = missing_files(entry, root)
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)  # torchvision sets none: it could wait for ever
    try:
        train, test = (
            _open(entry.data or entry.name, root, part, bool(missing)) for part in (True, False)
        )
        return make_store(str(root), _arrays(entry, train), _arrays(entry, test), _names(train))
    except InputError:
        raise
    except Exception as error:  # whatever a reader of foreign files comes up with
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


def _open(name: str, root: Path, train: bool, download: bool) -> Any:
    from torchvision import datasets

    if name == "svhn":
        return datasets.SVHN(str(root), "train" if train else "test", download=download)
    if name == "emnist":
        return datasets.EMNIST(str(root), "balanced", train=train, download=download)
    kinds = {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "usps": datasets.USPS,
    }
    return kinds[name](str(root), train=train, download=download)


def _arrays(entry: Entry, found: Any) -> tuple[np.ndarray, np.ndarray]:
    images = np.asarray(found.data)
    labels = np.asarray(found.labels if entry.name == "svhn" else found.targets)
    if entry.name == "svhn":
        images = images.transpose(0, 2, 3, 1)
    if entry.name == "emnist":
        images = images.transpose(0, 2, 1)  # its files hold every image on its side
    return images, labels


def _names(found: Any) -> tuple[str, ...]:
    """Class names, short: MNIST's "7 - seven" is "7"; numbers where there are none."""
    return tuple(str(name).split(" - ")[0] for name in getattr(found, "classes", ()))
