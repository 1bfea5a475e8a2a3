"""Removing what a client keeps: models of old runs, or everything."""

import shutil
import time
from pathlib import Path

from fedadapt.errors import InputError


def old_runs(home: Path, days: float) -> list[Path]:
    """The folders of experiments in which nothing was written for so many days.

    What is not of an experiment stays: who the client is, which picture is in which of its sets,
    and what it has spent of its privacy budget.
    """
    before = time.time() - 86_400 * days
    folders = (home / "state").glob("experiment-*")
    return sorted(f for f in folders if f.is_dir() and _written(f) < before)


def forget_runs(folders: list[Path]) -> int:
    """Remove the folders; how many bytes they held."""
    freed = 0
    for folder in folders:
        freed += _size(folder)
        shutil.rmtree(folder)
    return freed


def forget_client(home: Path) -> int:
    """Remove all that this client has ever kept, its key too; how many bytes that was.

    Raises:
        InputError: the folder is not a client's.

    """
    if not (home / "identity").is_dir():
        raise InputError(f"{home}: not the folder of a client (no identity in it)")
    freed = _size(home)
    shutil.rmtree(home)
    return freed


def _written(folder: Path) -> float:
    """When something in a folder was written last, seconds since 1970."""
    return max(p.lstat().st_mtime for p in (folder, *folder.rglob("*")))


def _size(folder: Path) -> int:
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file())
