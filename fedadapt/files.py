"""Writing files so that a crash leaves the old content or the new, never half of either."""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection
from pathlib import Path
from typing import BinaryIO

from fedadapt.errors import DiskFullError, InputError, one_line

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Of errors that say that a file cannot grow: disk full, quota used up, largest size reached."""

MOST_UNPACKED = 16 * 2**30
"""Bytes of memory that a packed file may take when it is read."""
MOST_PACKED, ALWAYS_READ = 200, 2**28
"""How many times larger than itself it may be then, and up to how many bytes nobody asks."""

LONGEST_NAME, LONGEST_PATH = 255, 4095  # bytes, on all file systems that are in use
UNFINISHED = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")
"""Names of the files that ``write_atomically`` has not finished."""


def write_atomically(
    path: Path, content: bytes | Callable[[BinaryIO], object], *, mode: int = 0o666
) -> None:
    """Replace ``path`` by ``content``: bytes, or what a function writes to an open file.

    Raises:
        DiskFullError: There is no room for it.
        OSError: It cannot be written for another reason.

    The folder must be there. The new content reaches the disk before it gets its name, and the
    name before this returns. Whatever goes wrong, the old file stays and no temporary file does;
    only a crash leaves one behind, ``.<name>.<random>.tmp``. ``mode`` is subject to the umask.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open(unfinished, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            crash_point("file-written")
            os.fsync(file.fileno())
        crash_point("file-fsynced")
        unfinished.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        if isinstance(error, OSError) and no_room(error):
            needed = len(content) if isinstance(content, bytes) else 0
            raise disk_full(path, needed) from error
        raise
    sync(path.parent)
    crash_point("file-renamed")


def user_path(text: str | Path, where: str) -> Path:
    """Return a path that a user gave, with ``~`` expanded; nothing is looked for on the disk.

    Args:
        where: What the message begins with, e.g. ``out``.

    Raises:
        InputError: It cannot be a path: no such user, not UTF-8, a zero byte, or too long.

    """
    shown = f"{where}: {one_line(text, 100)}"
    try:
        path = Path(text).expanduser()
        encoded = str(path).encode("utf-8")
    except RuntimeError:
        raise InputError(f"{shown}: there is no such user; give the whole path") from None
    except UnicodeEncodeError:
        raise InputError(f"{shown}: is not UTF-8; rename it or name another") from None
    if b"\0" in encoded:
        raise InputError(f"{shown}: has a zero byte; a path has none")
    if len(encoded) > LONGEST_PATH or any(len(n.encode()) > LONGEST_NAME for n in path.parts):
        raise InputError(
            f"{shown}: is too long; a name has at most {LONGEST_NAME} bytes and a path "
            f"{LONGEST_PATH}"
        )
    return path


def no_room(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that there is no room on a disk."""
    while error is not None:
        if isinstance(error, DiskFullError):
            return True
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        # safetensors has a type of its own, and says the number of the error in words.
        if any(f"(os error {number})" in str(error) for number in NO_ROOM):
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_full(path: Path, needed: int = 0) -> DiskFullError:
    """Return the error for a file that has no room: one line that says what is missing.

    Args:
        path: The file or folder that could not be written.
        needed: Bytes it takes; 0: not known.

    """
    takes = f", which takes {in_bytes(needed)}" if needed else ""
    folder = next((p for p in (path, *path.parents) if p.is_dir()), Path())
    try:
        free = f"{in_bytes(shutil.disk_usage(folder).free)} are free there"
    except OSError:
        free = "how much is free is not known"
    return DiskFullError(
        f"{path}: no room on the disk for it{takes}; {free}: make room, or raise the limits on "
        "files and quotas"
    )


def in_bytes(count: float) -> str:
    """``1536`` -> ``1.5 KiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def check_unpacked(path: Path, unpacked: int) -> None:
    """Refuse a packed file that would fill the memory.

    Args:
        unpacked: Bytes that it says it holds.

    Raises:
        InputError: They are more than ``MOST_UNPACKED``, or absurdly more than the file's.

    """
    packed = path.stat().st_size
    if unpacked > MOST_UNPACKED or unpacked > max(ALWAYS_READ, MOST_PACKED * packed):
        raise InputError(
            f"{path}: {in_bytes(packed)} that unpack to {in_bytes(unpacked)}; at most "
            f"{in_bytes(MOST_UNPACKED)} are read, and {MOST_PACKED} times the size of the file"
        )


def remove_unfinished(folder: Path, leave: Collection[str] = ()) -> int:
    """Remove the temporary files that a killed process left below a folder; return how many.

    Nobody else may be writing there.

    Args:
        leave: Names of folders directly below that are not looked into.

    """
    removed = 0
    for place, folders, names in os.walk(folder):
        if Path(place) == folder:
            folders[:] = [name for name in folders if name not in leave]
        for name in names:
            if UNFINISHED.fullmatch(name):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(place, name))
                    removed += 1
    return removed


def sync(path: Path) -> None:
    """Make a file's content, or a folder's list of names, survive a power cut."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders; its renames are journalled
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """The hash of a file's content, in hex, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def crash_point(step: str) -> None:
    """Die here as ``kill -9`` would, if ``FEDADAPT_CRASH_AT`` names this step: for tests."""
    if os.environ.get("FEDADAPT_CRASH_AT") == step:
        os._exit(137)
