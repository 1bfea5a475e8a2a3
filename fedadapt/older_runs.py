"""Refuse run folders of fedadapt 0.1.0, whose settings and tables have other names than ours.

Version 0.1.0 called a client a device. Its folders are told apart by these names: the key
``devices`` in ``config.toml``, and the tables ``devices.parquet`` and ``ledger.parquet``.
"""

import tomllib
from pathlib import Path

from fedadapt.errors import InputError

CONFIG = "config.toml"
OLD_KEY = "devices"
OLD_FILES = ("devices.parquet", "ledger.parquet", "ledger.jsonl")


def refuse_older_run(folder: Path) -> None:
    """Refuse a run folder that fedadapt 0.1.0 wrote; any other folder passes.

    Raises:
        InputError: One line that says which version wrote the folder and which one can read it.

    """
    if _has_old_settings(folder / CONFIG) or any((folder / name).is_file() for name in OLD_FILES):
        raise older_run(folder)


def older_run(path: Path) -> InputError:
    """Return the error for a folder or a file that fedadapt 0.1.0 wrote."""
    return InputError(
        f"{path}: written by fedadapt 0.1.0, which this version cannot read; "
        "use fedadapt 0.1.0 for it, or start the run anew in another folder"
    )


def _has_old_settings(path: Path) -> bool:
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False  # missing or damaged: the reader of the file says so
    return OLD_KEY in settings
