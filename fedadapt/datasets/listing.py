"""The lines of ``fedadapt benchmarks``. No torch, no numpy."""

from pathlib import Path
from typing import NamedTuple

from fedadapt.datasets.data_spec import FALLBACK
from fedadapt.datasets.entries import (
    ANY_CLIENTS,
    ANY_FOLDER,
    ANY_HUGGING_FACE,
    ANY_NPZ,
    CLIENTS,
    ENTRIES,
    FOLDER,
    HUGGING_FACE,
    NATURAL,
    NPZ,
    SERIES,
    DataEntry,
    user_entry,
)
from fedadapt.datasets.registry import BENCHMARKS
from fedadapt.datasets.sources.files import data_root, missing_files, npz_lengths, npz_path

_FORMS = {
    FOLDER: "folder:/path",
    CLIENTS: "clients:/path",
    NPZ: "npz:/path",
    HUGGING_FACE: "hf:NAME?client=COLUMN&label=COLUMN",
}


class BenchmarkRow(NamedTuple):
    """A line of ``fedadapt benchmarks``."""

    name: str
    description: str
    images: str  # "60,000 + 10,000 of 28x28x1"
    classes: str
    default: str  # partition, and shift where there is one
    found: bool
    where: str  # what was found, or what must be put where


def benchmark_rows(given_root: str = "") -> list[BenchmarkRow]:
    """Each benchmark, and whether its files are there; those of other packages come last."""
    root = data_root(given_root)
    others = [user_entry(name, path) for name, path in BENCHMARKS.theirs().items()]
    any_data = (ANY_FOLDER, ANY_CLIENTS, ANY_NPZ, ANY_HUGGING_FACE)
    return [_row(entry, root) for entry in (*ENTRIES, *any_data, *others)]


def _row(entry: DataEntry, root: Path | None) -> BenchmarkRow:
    default = entry.partition or f"{NATURAL}, or {FALLBACK}"
    default += f", {entry.shift}" if entry.shift != "none" else ""
    if entry.name in _FORMS:
        written = _FORMS[entry.name]
        where = f"--benchmark {written}"
        return BenchmarkRow(written, entry.description, "", "", default, True, where)
    if not entry.known:
        return BenchmarkRow(entry.name, entry.description, "", "", default, True, "installed")
    size = entry.form or f"{entry.image_size}x{entry.image_size}x{entry.channels}"
    found, where = _found(entry, root)
    return BenchmarkRow(
        entry.name, entry.description, f"{_counts(entry, root)} of {size}", str(entry.classes),
        default, found, where,
    )  # fmt: skip


def _counts(entry: DataEntry, root: Path | None) -> str:
    """Return how many images there are to train on, and to test on where those are apart.

    A plain file that stands in for the published ones has a number of its own.
    """
    train, test = entry.num_train, entry.num_test
    if root is not None and entry.files and npz_path(entry, root).is_file():
        lengths = npz_lengths(npz_path(entry, root))
        train = lengths.get("y_train", lengths.get("y", train))
        test = lengths.get("y_test", test)
    counts = f"{train:,}" if train else "many"
    return counts + (f" + {test:,}" if test else "")


def _found(entry: DataEntry, root: Path | None) -> tuple[bool, str]:
    if entry.folders:
        folders = [root / name for name in entry.folders if root and (root / name).is_dir()]
        if folders:
            return True, str(folders[0])
        return False, f"{root or 'set --data-root; there'}: {' or '.join(entry.folders)}/"
    if not entry.files:
        return True, "built in"
    if not entry.downloaded:
        return _found_by_hand(entry, root)
    folder = entry.files[0].rpartition("/")[0]
    wanted = f"{folder}/" if folder else " and ".join(entry.files)
    if root is None:
        return False, f"set --data-root; there {wanted} or {entry.data or entry.name}.npz"
    if npz_path(entry, root).is_file():
        return True, str(npz_path(entry, root))
    if not missing_files(entry, root):
        return True, str(root / folder)
    return False, f"{root}: {wanted} or {entry.data or entry.name}.npz; downloaded when first used"


def _found_by_hand(entry: DataEntry, root: Path | None) -> tuple[bool, str]:
    """Whether files are there that nobody downloads for the user."""
    first = entry.files[0]
    places = [f"{first.partition('/')[0]}/" if "/" in first else first]
    if npz_path(entry, Path()).name not in places:
        places += [npz_path(entry, Path()).name] if entry.kind == SERIES else []
    wanted = " or ".join(places)
    if root is None:
        return False, f"set --data-root; there {wanted}"
    if npz_path(entry, root).is_file():
        return True, str(npz_path(entry, root))
    if not missing_files(entry, root):
        return True, str(root / places[0].rstrip("/"))
    return False, f"{root}: {wanted}"
