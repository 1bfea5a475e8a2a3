"""Memory that several processes see, and that is gone with the last of them.

On Linux it is anonymous (``memfd``): it has no name that could be left behind, and no limit but the
machine's (a container's ``/dev/shm`` often has 64 MB). Others open it below ``/proc``. Elsewhere it
is files in a folder, which whoever made the folder removes.
"""

import mmap
import os
from collections import deque
from pathlib import Path
from typing import NamedTuple
from weakref import finalize

SMALLEST = 2**16  # bytes


class Block(NamedTuple):
    """A piece of memory under the name by which another process finds it."""

    path: str
    memory: mmap.mmap


class Pool:
    """Blocks to write into, used again and again: their pages are there already.

    Sizes are powers of two, so that what is a bit larger than the last finds a block as well; pages
    nobody touches take no memory.
    """

    def __init__(self, folder: Path | None) -> None:
        """Begin with no blocks.

        Args:
            folder: For the files, where memory cannot be anonymous.

        """
        self._folder = folder
        self._files: list[int] = []  # open as long as the pool is: they keep anonymous memory
        self._free: dict[int, list[Block]] = {}

    def take(self, size: int) -> Block:
        """A block of at least ``size`` bytes; what is in it is left from before."""
        size = max(SMALLEST, 1 << (size - 1).bit_length())
        free = self._free.get(size)
        return free.pop() if free else self._make(size)

    def give(self, block: Block) -> None:
        """Nobody needs what is in ``block`` any more."""
        self._free.setdefault(len(block.memory), []).append(block)

    def close(self) -> None:
        """Make no more blocks; those there are stay readable where they are mapped."""
        while self._files:
            os.close(self._files.pop())
        self._free.clear()

    def _make(self, size: int) -> Block:
        if self._folder is None:
            file = os.memfd_create("fedadapt")
            path = f"/proc/{os.getpid()}/fd/{file}"
        else:
            path = str(self._folder / f"{os.getpid()}-{len(self._files)}")
            file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        self._files.append(file)
        os.ftruncate(file, size)
        return Block(path, mmap.mmap(file, size))


class Lease:
    """A block of a pool, given back when nobody holds this."""

    def __init__(self, pool: Pool, size: int) -> None:
        self.block = pool.take(size)
        finalize(self, pool.give, self.block).atexit = False


class MappedBlock:
    """Another process's blocks, seen from here."""

    def __init__(self) -> None:
        self._maps: dict[str, mmap.mmap] = {}
        self._unused: deque[str] = deque()  # a finaliser takes no lock

    def memory(self, path: str, size: int) -> memoryview:
        """A block's memory; while anybody holds this, or a view of it, it is not written again."""
        if path not in self._maps:
            with open(path, "r+b") as file:
                self._maps[path] = mmap.mmap(file.fileno(), size)
        view = memoryview(self._maps[path])
        finalize(view, self._unused.append, path).atexit = False
        return view

    def unused(self) -> list[str]:
        """Blocks nobody here looks at any more; each is named once."""
        return [self._unused.popleft() for _ in range(len(self._unused))]
