"""Memory that is shared by several processes and freed with the last of them.

On Linux it is anonymous (``memfd``): it has no file name that could be left behind, and no limit
but the machine's (the ``/dev/shm`` of a container often has 64 MB). Other processes open it below
``/proc``. On other systems it consists of files in a folder; the owner of the folder removes it.
"""

import mmap
import os
from collections import deque
from pathlib import Path
from typing import NamedTuple
from weakref import finalize

SMALLEST = 2**16  # bytes


class Block(NamedTuple):
    """A piece of shared memory, and the path under which another process opens it."""

    path: str
    memory: mmap.mmap


class Pool:
    """Blocks to write into. They are reused, because their pages are already mapped.

    Sizes are powers of two, so that a slightly larger tree fits into the same block; pages that are
    never touched take no memory.
    """

    def __init__(self, folder: Path | None) -> None:
        """Begin with no blocks.

        Args:
            folder: The folder of the files if memory cannot be anonymous, else None.

        """
        self._folder = folder
        self._files: list[int] = []  # open as long as the pool is: they keep anonymous memory
        self._free: dict[int, list[Block]] = {}

    def take(self, size: int) -> Block:
        """Return a block of at least ``size`` bytes, with arbitrary content."""
        size = max(SMALLEST, 1 << (size - 1).bit_length())
        free = self._free.get(size)
        return free.pop() if free else self._make(size)

    def give(self, block: Block) -> None:
        """Return a block to the pool; its content is no longer needed."""
        self._free.setdefault(len(block.memory), []).append(block)

    def close(self) -> None:
        """Close the pool; its blocks stay readable where they are mapped."""
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
    """A block of a pool, which is returned when this object is no longer referenced."""

    def __init__(self, pool: Pool, size: int) -> None:
        self.block = pool.take(size)
        finalize(self, pool.give, self.block).atexit = False


class MappedBlock:
    """The blocks of another process, mapped into this one."""

    def __init__(self) -> None:
        self._maps: dict[str, mmap.mmap] = {}
        self._unused: deque[str] = deque()  # a finaliser takes no lock

    def memory(self, path: str, size: int) -> memoryview:
        """Return the memory of a block, which is not reused while this or a view of it is held."""
        if path not in self._maps:
            with open(path, "r+b") as file:
                self._maps[path] = mmap.mmap(file.fileno(), size)
        view = memoryview(self._maps[path])
        finalize(view, self._unused.append, path).atexit = False
        return view

    def unused(self) -> list[str]:
        """Return the paths of blocks that are no longer referenced here, each once."""
        return [self._unused.popleft() for _ in range(len(self._unused))]
