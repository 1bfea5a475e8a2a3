"""Finished runs, found in folders that are named."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.simulations.results.summary import SUMMARY, read_summary, told_apart_by

CONFIG = "config.toml"


class MadeRun(NamedTuple):
    """A run that has ended."""

    folder: Path
    summary: dict[str, Any]


def run_folders(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of runs; one that is none stands for those directly below it.

    Raises:
        InputError: A folder is not there, or holds no finished run.

    """
    found: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; name folders of runs")
        if (folder / SUMMARY).is_file() or (folder / CONFIG).is_file():
            runs = [folder]
        else:
            runs = sorted(path.parent for path in folder.glob(f"*/{SUMMARY}"))
        if not runs:
            raise InputError(f"{folder}: holds no finished run, and no folder in it does")
        found |= dict.fromkeys(runs)
    return list(found)


def read_run(folder: Path) -> MadeRun:
    """Read the summary of a run, with its settings.

    Raises:
        InputError: The run is not finished, or a file is damaged.

    """
    summary = read_summary(folder)
    if "settings" not in summary and (folder / CONFIG).is_file():  # of an earlier version
        summary["settings"] = told_apart_by(RunConfig.from_toml(folder / CONFIG))
    return MadeRun(folder, summary)
