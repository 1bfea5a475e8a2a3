"""The lines of ``fedadapt benchmarks``. No torch, no numpy."""

from pathlib import Path
from typing import NamedTuple

from fedadapt.datasets.entries import ANY_FOLDER, ENTRIES, FOLDER, DataEntry, user_entry
from fedadapt.datasets.registry import BENCHMARKS
from fedadapt.datasets.sources.files import data_root, missing_files, npz_path


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
    return [_row(entry, root) for entry in (*ENTRIES, ANY_FOLDER, *others)]


def _row(entry: DataEntry, root: Path | None) -> BenchmarkRow:
    default = entry.partition + (f", {entry.shift}" if entry.shift != "none" else "")
    if entry.name == FOLDER:
        where = "any folder: --benchmark folder:/path"
        return BenchmarkRow("folder:/path", entry.description, "", "", default, True, where)
    if not entry.known:
        return BenchmarkRow(entry.name, entry.description, "", "", default, True, "installed")
    size = f"{entry.image_size}x{entry.image_size}x{entry.channels}"
    counts = f"{entry.num_train:,}" + (f" + {entry.num_test:,}" if entry.num_test else "")
    found, where = _found(entry, root)
    return BenchmarkRow(
        entry.name, entry.description, f"{counts} of {size}", str(entry.classes), default,
        found, where,
    )  # fmt: skip


def _found(entry: DataEntry, root: Path | None) -> tuple[bool, str]:
    if entry.folders:
        folders = [root / name for name in entry.folders if root and (root / name).is_dir()]
        if folders:
            return True, str(folders[0])
        return False, f"{root or 'set --data-root; there'}: {' or '.join(entry.folders)}/"
    if not entry.files:
        return True, "built in"
    folder = entry.files[0].rpartition("/")[0]
    wanted = f"{folder}/" if folder else " and ".join(entry.files)
    if root is None:
        return False, f"set --data-root; there {wanted} or {entry.data or entry.name}.npz"
    if npz_path(entry, root).is_file():
        return True, str(npz_path(entry, root))
    if not missing_files(entry, root):
        return True, str(root / folder)
    return False, f"{root}: {wanted} or {entry.data or entry.name}.npz; downloaded when first used"
