"""UCI HAR: what thirty persons do, by the accelerometer and gyroscope of a telephone.

Anguita et al. 2013, "A public domain dataset for human activity recognition using smartphones".
Windows of 128 samples at 50 Hz overlap by half; a recording is a chain of such windows, and stays
whole wherever the data are cut.
"""

from pathlib import Path

import numpy as np

from fedadapt.datasets.entries import HAR_SIGNALS, DataEntry
from fedadapt.datasets.sources.files import check_root, missing_files, npz_path
from fedadapt.datasets.sources.image_store import Store, store_of
from fedadapt.datasets.sources.npz import read_arrays
from fedadapt.errors import InputError

CLASSES = ("walking", "upstairs", "downstairs", "sitting", "standing", "laying")
"""In the order of the official labels, 1 to 6."""
SAMPLES = 128  # of a window
FOLDER_NAME = "UCI HAR Dataset"


def read_har(entry: DataEntry, root: str) -> Store:
    """Read ``har.npz`` (x [N, 128, 9], y, client, group, classes), else the official files.

    The official division into 21 and 9 persons is not used: every person is a client.

    Raises:
        InputError: Neither is there, or a file is damaged.

    """
    folder = check_root(entry.name, root)
    npz = npz_path(entry, folder)
    if npz.is_file():
        arrays = read_arrays(npz, ("x", "y", "client", "group"), ("classes",))
        if arrays["x"].ndim != 3:
            raise InputError(f"{npz}: x is {list(arrays['x'].shape)}; it must be [N, 128, 9]")
        signals = arrays["x"].transpose(0, 2, 1)
        return store_of(str(npz), signals, arrays["y"], clients=arrays["client"],
                        groups=arrays["group"], classes=arrays.get("classes", CLASSES))  # fmt: skip
    missing = missing_files(entry, folder)
    if missing:
        raise InputError(
            f"{folder}: har is not there; put {entry.name}.npz there, or the folder "
            f"{FOLDER_NAME!r} with {missing[0].removeprefix(f'{FOLDER_NAME}/')} and the others"
        )
    return _official(folder / FOLDER_NAME)


def _official(folder: Path) -> Store:
    parts = [_part(folder, part) for part in ("train", "test")]
    signals, labels, persons = (
        np.concatenate([part[column] for part in parts]) for column in range(3)
    )
    order = np.argsort(persons, kind="stable")  # a person is in one part, in order of time
    signals, labels, persons = signals[order], labels[order], persons[order]
    if not set(np.unique(labels)) <= set(range(1, len(CLASSES) + 1)):
        raise InputError(f"{folder}: labels must be 1 to {len(CLASSES)}")
    return store_of(
        str(folder), signals, labels - 1, clients=persons, classes=CLASSES,
        groups=recordings(signals, persons, labels),
    )  # fmt: skip


def _part(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Signals [N, 9, 128], labels and persons of a part of the official files."""
    channels = [
        _table(folder / part / "Inertial Signals" / f"{signal}_{part}.txt", np.float32)
        for signal in HAR_SIGNALS
    ]
    labels, persons = (
        _table(folder / part / f"{name}_{part}.txt", np.int64).reshape(-1)
        for name in ("y", "subject")
    )
    for signal, table in zip(HAR_SIGNALS, channels, strict=True):
        if table.shape != (len(labels), SAMPLES) or len(persons) != len(labels):
            raise InputError(
                f"{folder / part}: {signal} is {list(table.shape)} for {len(labels)} labels and "
                f"{len(persons)} persons; a window has {SAMPLES} samples"
            )
    return np.stack(channels, axis=1), labels, persons


def _table(path: Path, kind: type) -> np.ndarray:
    try:
        return np.loadtxt(path, kind, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def recordings(signals: np.ndarray, persons: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The recording of each window, [N]: a new one begins where a window does not go on.

    A window goes on with the one before if it begins with the second half of that, of the same
    person in the same activity.

    Args:
        signals: [N, C, T], in order of time within each person.

    """
    half = signals.shape[2] // 2
    same = np.isclose(signals[1:, :, :half], signals[:-1, :, half:], rtol=1e-4, atol=1e-6)
    goes_on = same.all(axis=(1, 2)) & (persons[1:] == persons[:-1]) & (labels[1:] == labels[:-1])
    return np.concatenate(([0], np.cumsum(~goes_on))).astype(np.int64)
