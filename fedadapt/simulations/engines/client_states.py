"""What clients keep between rounds, where that lives with the server: in memory, then on disk."""

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

BUDGET = 2**28  # bytes of what clients keep that stay in memory


class State(Mapping[str, Weights]):
    """What one client keeps, part by part; each is read when asked for, and none ever changes.

    So the same object is the same content: a checkpoint need not look into it again.
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


class ClientStates:
    """What each client of a simulation keeps, by its number. Safe to use from several threads.

    States are in memory as long as those that anybody still holds (a snapshot counts) fit
    ``budget``; others are in a file without a name, which is gone with this process however that
    ends: what must outlive it is the checkpoint's. A state that is new stays where there is room
    rather than take the place of an old one: clients come round and round, and the oldest would
    always be the next one asked for.
    """

    def __init__(self, folder: Path | None = None, budget: int = BUDGET) -> None:
        """Begin with nothing kept.

        Args:
            folder: Where the file lies, once there is one; the system's for such files if None,
                which may be in memory itself.
            budget: Bytes in memory.

        """
        self._states: dict[int, State] = {}
        self._spill_file = SpillFile(folder)
        self._budget = budget
        self._in_memory = 0
        self._gone: deque[int] = deque()  # sizes of states in memory that nobody holds any more
        self._lock = threading.Lock()

    def of(self, client: int) -> Mapping[str, Weights]:
        """The parts a client keeps, {} for none; read only."""
        return dict(self._states.get(client, {}))

    def remember(self, clients: tuple[int, ...], update: Update) -> None:
        """Keep row d of each of the update's parts for the d-th client, beside its other parts.

        A client whose training diverged keeps what it had, or it would never recover.
        """
        for index, client in enumerate(clients):
            new = {part: row(weights, index) for part, weights in update.states.items()}
            if new and all(is_finite(weights) for weights in new.values()):
                old: Mapping[str, Weights] = self._states.get(client, {})
                parts = dict.fromkeys([*old, *new])
                self._states[client] = self._put({p: new[p] if p in new else old[p] for p in parts})

    def snapshot(self) -> dict[int, Mapping[str, Weights]]:
        """All states as they are now, by client; nothing is copied, nor read from the disk."""
        return dict(self._states)

    def restore(self, states: Mapping[int, Mapping[str, Weights]]) -> None:
        """Go back to a snapshot, of this keeper or as it came out of a checkpoint."""
        self._states = {
            client: parts if isinstance(parts, State) else self._put(parts)
            for client, parts in states.items()
        }

    def _put(self, parts: Mapping[str, Weights]) -> State:
        size = sum(num_bytes(weights) for weights in parts.values())
        if not self._takes(size):
            return self._spill_file.put(parts)
        copies = {p: {n: t.detach().clone() for n, t in w.items()} for p, w in parts.items()}
        state = State(tuple(copies), copies.__getitem__)
        finalize(state, self._gone.append, size).atexit = False
        return state

    def _takes(self, size: int) -> bool:
        """Whether ``size`` more bytes fit into memory; they are booked if so."""
        with self._lock:
            while self._gone:
                self._in_memory -= self._gone.popleft()
            if fits := self._in_memory + size <= self._budget:
                self._in_memory += size
            return fits


class Array(NamedTuple):
    """A tensor in the file, without its place."""

    part: str
    name: str
    dtype: torch.dtype
    shape: torch.Size

    @property
    def size(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


class SpillFile:
    """States in a temporary file; the room of one that nobody holds any more is used again."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._end = 0
        self._gone: deque[tuple[int, int]] = deque()  # (size, place): a finaliser takes no lock
        self._free: dict[int, list[int]] = {}  # size -> places; most states are of one size
        self._layouts: dict[tuple[Array, ...], tuple[Array, ...]] = {}  # each is held once

    def put(self, parts: Mapping[str, Weights]) -> State:
        """Write a state.

        Raises:
            FedadaptError: The disk is full, or the folder is not ours to write to.

        """
        arrays = tuple(
            Array(p, n, t.dtype, t.shape) for p, w in parts.items() for n, t in w.items()
        )
        size = sum(array.size for array in arrays)
        try:
            with self._lock:
                layout = self._layouts.setdefault(arrays, arrays)
                place = self._place(size)
                self._file.seek(place)
                for weights in parts.values():
                    for tensor in weights.values():
                        self._file.write(_raw(tensor.detach().cpu().contiguous()))
                self._file.flush()
        except OSError as error:
            raise FedadaptError(
                f"{self._folder or tempfile.gettempdir()}: what clients keep does not fit into "
                f"memory and cannot be written there ({error})"
            ) from error
        state = State(tuple(parts), partial(self._get, place, layout))
        finalize(state, self._gone.append, (size, place)).atexit = False
        return state

    def _get(self, place: int, layout: tuple[Array, ...], part: str) -> Weights:
        found: Weights = {}
        with self._lock:
            for array in layout:
                if array.part == part:
                    found[array.name] = torch.empty(array.shape, dtype=array.dtype)
                    self._file.seek(place)
                    self._file.readinto(_raw(found[array.name]))
                place += array.size
        return found

    def _place(self, size: int) -> int:
        """Where ``size`` bytes can go; the file is there afterwards."""
        if not self._end:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
            finalize(self, self._file.close)
        while self._gone:
            was, place = self._gone.popleft()
            self._free.setdefault(was, []).append(place)
        if places := self._free.get(size):
            return places.pop()
        place, self._end = self._end, self._end + max(1, size)
        return place


def _raw(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, to be read or written."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
