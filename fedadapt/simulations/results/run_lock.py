"""One process at a time writes into a run folder; the operating system keeps the lock.

A lock ends with the process that holds it, however that ends, also by ``kill -9``. The file that is
left behind then locks nothing.
"""

import errno
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedadapt.errors import InputError, one_line
from fedadapt.files import disk_full, no_room

LOCK = ".lock"

log = logging.getLogger(__name__)

_held: set[tuple[int, int]] = set()
"""The locks of this process, by device and inode: the system refuses other processes only."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which must be there.

    The lock is one of a process and not of an open file: worker processes that are forked do not
    hold it, so none of them can keep a folder locked after its run has been killed.

    Raises:
        InputError: Another run holds it, in this process or in another one, or the folder cannot
            be written to.

    """
    file = _locked(folder)
    identity = _identity(file)
    _held.add(identity)
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()  # while it is locked: see ``_locked``
        os.close(file)
        _held.discard(identity)


def _locked(folder: Path) -> int:
    """Return the open lock file; try again where its holder removed it just before it ended."""
    path = folder / LOCK
    while True:
        # Closing any second descriptor of a file would give up this process's lock on it.
        with suppress(FileNotFoundError):
            if _identity(path) in _held:
                raise _in_use(folder, f"process {os.getpid()}")
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if no_room(error):
                raise disk_full(path) from error
            raise InputError(f"out: {folder} cannot be written to ({error.strerror})") from None
        try:
            if not _lock(file):
                raise _in_use(folder, _holder(file))
            if _same(file, path):
                with suppress(OSError):  # a full disk: the lock is held all the same
                    os.ftruncate(file, 0)
                    os.write(file, f"process {os.getpid()}".encode())
                return file
        except InputError:
            os.close(file)
            raise
        except OSError as error:
            log.warning("%s cannot be locked (%s); start no second run there", folder, error)
            return file
        os.close(file)


def _lock(file: int) -> bool:
    """Lock a file; False where another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def _holder(file: int) -> str:
    with suppress(OSError):
        if words := os.pread(file, 100, 0) if hasattr(os, "pread") else b"":
            return one_line(words.decode("utf-8", "replace"), 40)
    return "another process"


def _in_use(folder: Path, holder: str) -> InputError:
    return InputError(
        f"out: a run is going on in {folder} ({holder}); wait for its end, or name another folder"
    )


def _same(file: int, path: Path) -> bool:
    try:
        return _identity(file) == _identity(path)
    except FileNotFoundError:
        return False


def _identity(file: int | Path) -> tuple[int, int]:
    status = os.stat(file)
    return status.st_dev, status.st_ino
