"""States of clients that live with the server: in memory first, then in a file on disk.

What the clients of a simulation keep is such a state, and so is what a strategy knows of a client.
"""

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple
from weakref import finalize

import torch
from torch import Tensor

from fedadapt.errors import FedadaptError
from fedadapt.messages import Update
from fedadapt.weights import Weights, is_finite, num_bytes, row

BUDGET = 2**28  # bytes of client states that stay in memory


class State(Mapping[str, Weights]):
    """The state of one client; a part is read when it is asked for.

    A state never changes: the same object has the same content, and a checkpoint need not compare.
    """

    __slots__ = ("__weakref__", "_parts", "_read")

    def __init__(self, parts: tuple[str, ...], read: Callable[[str], Weights]) -> None:
        self._parts = parts
        self._read = read

    def __getitem__(self, part: str) -> Weights:
        if part not in self._parts:
            raise KeyError(part)
        return self._read(part)

    def __contains__(self, part: object) -> bool:
        return part in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


class StateStorage:
    """Puts states into memory up to ``budget``, and further ones into a file without a name.

    All states that are still referenced count, by a snapshot for example. The file disappears with
    this process however it ends; the checkpoint keeps what must outlive the process. A new state
    does not displace an older one from memory: clients are asked in turn, so the oldest state is
    always the next to be needed. Safe to use from several threads.
    """

    def __init__(self, folder: Path | None = None, budget: int = BUDGET) -> None:
        """Begin without any states.

        Args:
            folder: The folder of the file, made when it is first needed. None stands for the
                system's folder for temporary files, which may be in memory itself.
            budget: Bytes of states in memory.

        """
        self._spill_file = SpillFile(folder)
        self._budget = budget
        self._in_memory = 0
        self._gone: deque[int] = deque()  # sizes of states in memory that are no longer referenced
        self._lock = threading.Lock()

    def put(self, parts: Mapping[str, Weights]) -> State:
        """Return a copy of ``parts`` that never changes."""
        size = sum(num_bytes(weights) for weights in parts.values())
        if not self._takes(size):
            return self._spill_file.put(parts)
        copies = {p: {n: t.detach().clone() for n, t in w.items()} for p, w in parts.items()}
        state = State(tuple(copies), copies.__getitem__)
        finalize(state, self._gone.append, size).atexit = False
        return state

    def _takes(self, size: int) -> bool:
        """Whether ``size`` more bytes fit into memory; if so, they are counted as used."""
        with self._lock:
            while self._gone:
                self._in_memory -= self._gone.popleft()
            if fits := self._in_memory + size <= self._budget:
                self._in_memory += size
            return fits


class ClientStates:
    """What all clients of a simulation keep, by number. Safe to use from several threads."""

    def __init__(self, folder: Path | None = None, budget: int = BUDGET) -> None:
        """Begin without any states; see ``StateStorage``."""
        self._states: dict[int, State] = {}
        self._storage = StateStorage(folder, budget)

    def of(self, client: int) -> Mapping[str, Weights]:
        """Return a client's parts, {} if it has none; read only."""
        return dict(self._states.get(client, {}))

    def remember(self, clients: tuple[int, ...], update: Update) -> None:
        """Store row d of each of the update's parts for the d-th client, beside its other parts.

        A client whose training diverged keeps its former state, or it would never recover.
        """
        # As a rule nobody's diverged, and then there is nobody to look for.
        all_converged = all(is_finite(weights) for weights in update.states.values())
        for index, client in enumerate(clients):
            new = {part: row(weights, index) for part, weights in update.states.items()}
            if new and (all_converged or all(is_finite(weights) for weights in new.values())):
                old: Mapping[str, Weights] = self._states.get(client, {})
                parts = dict.fromkeys([*old, *new])
                self._states[client] = self._storage.put(
                    {p: new[p] if p in new else old[p] for p in parts}
                )

    def snapshot(self) -> dict[int, Mapping[str, Weights]]:
        """Return all states by client, without copying them or reading them from disk."""
        return dict(self._states)

    def restore(self, states: Mapping[int, Mapping[str, Weights]]) -> None:
        """Go back to a snapshot, made here or read from a checkpoint."""
        self._states = {
            client: parts if isinstance(parts, State) else self._storage.put(parts)
            for client, parts in states.items()
        }


class Array(NamedTuple):
    """A tensor in the file, without its offset."""

    part: str
    name: str
    dtype: torch.dtype
    shape: torch.Size

    @property
    def size(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


class SpillFile:
    """States in a temporary file. The space of a state that is no longer referenced is reused."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._end = 0
        self._gone: deque[tuple[int, int]] = deque()  # (size, offset): a finaliser takes no lock
        self._free: dict[int, list[int]] = {}  # size -> offsets; most states are of one size
        self._layouts: dict[tuple[Array, ...], tuple[Array, ...]] = {}  # shared if equal

    def put(self, parts: Mapping[str, Weights]) -> State:
        """Write a state.

        Raises:
            FedadaptError: The disk is full, or the folder is not writable.

        """
        arrays = tuple(
            Array(p, n, t.dtype, t.shape) for p, w in parts.items() for n, t in w.items()
        )
        size = sum(array.size for array in arrays)
        try:
            with self._lock:
                layout = self._layouts.setdefault(arrays, arrays)
                offset = self._allocate(size)
                self._file.seek(offset)
                for weights in parts.values():
                    for tensor in weights.values():
                        self._file.write(_raw(tensor.detach().cpu().contiguous()))
                self._file.flush()
        except OSError as error:
            raise FedadaptError(
                f"{self._folder or tempfile.gettempdir()}: what clients keep does not fit into "
                f"memory and cannot be written there ({error})"
            ) from error
        state = State(tuple(parts), partial(self._get, offset, layout))
        finalize(state, self._gone.append, (size, offset)).atexit = False
        return state

    def _get(self, offset: int, layout: tuple[Array, ...], part: str) -> Weights:
        weights: Weights = {}
        with self._lock:
            for array in layout:
                if array.part == part:
                    weights[array.name] = torch.empty(array.shape, dtype=array.dtype)
                    self._file.seek(offset)
                    self._file.readinto(_raw(weights[array.name]))
                offset += array.size
        return weights

    def _allocate(self, size: int) -> int:
        """Return an offset for ``size`` bytes; the file is created if it does not exist yet."""
        if not self._end:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            finalize(self, self._file.close)
        while self._gone:
            freed, offset = self._gone.popleft()
            self._free.setdefault(freed, []).append(offset)
        if offsets := self._free.get(size):
            return offsets.pop()
        offset, self._end = self._end, self._end + max(1, size)
        return offset


def _raw(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, for reading or writing."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
