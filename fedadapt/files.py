"""Writing files so that a crash leaves the old content or the new, never half of either."""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(
    path: Path, content: bytes | Callable[[BinaryIO], object], *, mode: int = 0o666
) -> None:
    """Replace ``path`` by ``content``: bytes, or what a function writes to an open file.

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
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    sync(path.parent)
    crash_point("file-renamed")


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
