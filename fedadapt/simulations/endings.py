"""Runs that do not come to their own end: one line each, and what can be done next, if anything."""

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Never

from fedadapt.errors import DiskFullError, InterruptedRunError, ended_by_exit
from fedadapt.files import disk_full, no_room

FLOWER = "flower"  # the engine whose clients keep what stays with them on disks of their own

STOPPING = ("SIGTERM", "SIGHUP")
"""Signals that are taken for Ctrl-C: an order to end, and a terminal that is gone."""


@contextmanager
def early_endings(folder: Path, engine: str = "processes") -> Iterator[None]:
    """Turn whatever ends a run early into an error with a line and an exit code.

    Raises:
        InterruptedRunError: Ctrl-C.
        DiskFullError: There is no room for a file.
        FedadaptError: Code of the run called ``sys.exit``, which must not look like success.

    """
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRunError(f"interrupted; {next_step(folder, engine)}") from None
    except SystemExit as error:
        raise ended_by_exit(error) from error
    except Exception as error:
        if no_room(error):
            raise DiskFullError(
                f"{_full(error, folder)}; then {next_step(folder, engine)}"
            ) from error
        raise


def next_step(folder: Path, engine: str = "processes") -> str:
    """Return how a run goes on, or that it cannot."""
    if any((folder / "checkpoint").glob("round-*")):
        return f"go on with: {resume_command(folder, engine)}"
    return "nothing was saved yet: start it anew"


def resume_command(folder: Path, engine: str = "processes") -> str:
    """Return the command that goes on with a run, on the engine on which it began."""
    if engine == FLOWER:
        return f"flwr run . --run-config {shlex.quote(str(folder / 'resume.toml'))}"
    return f"fedadapt simulate --resume {shlex.quote(str(folder))}"


def _full(error: Exception, folder: Path) -> Exception:
    """Return what says which file has no room, as well as it is known."""
    if isinstance(error, DiskFullError):
        return error
    name = error.filename if isinstance(error, OSError) else None
    return disk_full(Path(os.fsdecode(name)) if isinstance(name, str | bytes) else folder)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Take SIGTERM and SIGHUP for Ctrl-C meanwhile; a signal that is ignored stays ignored.

    Outside the main thread, where Python cannot handle signals, nothing is changed.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in STOPPING:
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as by nohup
                before[number] = signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _interrupt(number: int, frame: FrameType | None) -> Never:
    raise KeyboardInterrupt
