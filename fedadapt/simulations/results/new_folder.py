"""The folder of a run: where a new one may go, and what is done before a run writes into it.

It is made without importing torch, so a folder that cannot be used is refused at once.
"""

import logging
import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.files import remove_unfinished, user_path
from fedadapt.simulations.results.run_lock import LOCK, only_writer

CHECKPOINT, CONFIG, CLIENTS = "checkpoint", "config.toml", "clients"
HARMLESS = frozenset({LOCK, "lost+found", ".DS_Store", ".gitkeep", ".gitignore"})
"""Names that a folder may have and still counts as empty."""
FIRST = re.compile(r"\w+\.jsonl|" + CLIENTS + r"|\..+\.tmp")
"""What a run that was killed at its very beginning has left."""
LONGEST = 100  # characters of a folder's name that is made from others

log = logging.getLogger(__name__)


def new_folder(config: RunConfig) -> Path:
    """Make the folder of a new run.

    Raises:
        InputError: It cannot be made or written to, holds another run, or things that are not of a
            run.

    """
    if not config.out:
        return _next_folder(f"{config.benchmark}-{config.strategy}")
    folder = user_path(config.out, "out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: {folder}: {error.strerror}") from None
    refuse_used(folder)
    if not os.access(folder, os.W_OK):
        raise InputError(f"out: {folder} cannot be written to")
    return folder


@contextmanager
def opened(folder: Path, *, resume: bool) -> Iterator[None]:
    """Be the only one who writes into the folder of a run, new or to be resumed.

    What a killed process has not finished is removed, but in the clients' own folders: these may
    be at work already.

    Raises:
        InputError: A run is going on there, or a new one may not begin there.

    """
    with only_writer(folder):
        if not resume:
            refuse_used(folder)  # another run may have been quicker
        for checkpoint in (folder / CHECKPOINT).glob("round-*.tmp"):
            shutil.rmtree(checkpoint, ignore_errors=True)
        if removed := remove_unfinished(folder, leave=(CLIENTS,)):
            log.info("%s: %d unfinished files of an earlier start removed", folder, removed)
        yield


def refuse_used(folder: Path) -> None:
    """Refuse a folder that is neither empty nor that of a run that has not really begun.

    Raises:
        InputError: It holds a run, or other things.

    """
    try:
        names = set(os.listdir(folder)) - HARMLESS
    except OSError as error:
        raise InputError(f"out: {folder}: {error.strerror}") from None
    if CHECKPOINT in names:
        raise InputError(
            f"out: {folder} holds a run already; name another folder, or go on with it: "
            f"fedadapt simulate --resume {folder}"
        )
    if names and not all(map(FIRST.fullmatch, names)) and not _has_settings(folder):
        some = ", ".join(sorted(names)[:2]) + (", ..." if len(names) > 2 else "")
        raise InputError(
            f"out: {folder} holds other things ({ascii(some)[1:-1]}); name a new folder, or an "
            "empty one"
        )


def _has_settings(folder: Path) -> bool:
    """Whether a run has written its settings there."""
    try:
        settings = tomllib.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return {"benchmark", "strategy", "rounds"} <= settings.keys()


def _next_folder(words: str) -> Path:
    """Make ``runs/<words>-<number>``, the first number that nobody has taken."""
    name = re.sub(r"[^\w.-]+", "-", words)[:LONGEST]
    for number in range(1, 10_000):
        folder = Path("runs") / f"{name}-{number}"
        try:
            folder.parent.mkdir(exist_ok=True)
            folder.mkdir()
        except FileExistsError:
            if folder.parent.is_dir():
                continue
            raise InputError("out: runs: is a file; name the folder of the run") from None
        except OSError as error:
            raise InputError(f"out: {folder}: {error.strerror}") from None
        return folder
    raise InputError(f"out: runs/{name}-1 to -9999 are taken; name the folder of the run")
