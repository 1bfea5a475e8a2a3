"""The engine that computes clients in worker processes, with models in shared memory.

A worker process has one torch thread: two processes with one thread each train almost twice as many
clients a second as one process with two. Processes are forked after the benchmark has been loaded,
so decoded images are in memory once. Where forking is impossible, each process loads everything
itself.
"""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import warnings
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError
from fedadapt.simulations.engines.jobs import Job
from fedadapt.simulations.engines.process_worker import (
    Message,
    PackedTensors,
    Task,
    WorkerHandles,
    forked,
    pack,
    received,
    spawned,
)
from fedadapt.simulations.engines.scheduler import Done, Down, Up
from fedadapt.simulations.engines.serialization import Tree
from fedadapt.simulations.engines.shared_memory import Block, Lease, MappedBlock, Pool
from fedadapt.simulations.engines.worker_pool import Keeps, WorkerPoolClients
from fedadapt.simulations.worker import Worker

PATIENCE = 600.0  # seconds for processes to start; some have to load a benchmark first

log = logging.getLogger(__name__)


class ProcessClients(WorkerPoolClients):
    """Clients in cohorts of at most ``cohort_size``, computed in ``num_workers`` processes.

    A process that dies (killed, out of memory) is replaced and its clients are computed again, with
    the same results. A client that ends several processes gets the outcome ``error``.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        num_workers: int,
        cohort_size: int,
        client_states: Keeps,
        config: RunConfig | None = None,
    ) -> None:
        """Prepare the engine; its processes run while it is open as a context manager.

        Args:
            config: The settings of ``worker``; processes that cannot be forked assemble from them.

        """
        worker_pool = ProcessWorkers(worker, num_workers, config)
        super().__init__(worker, worker_pool, cohort_size=cohort_size, client_states=client_states)


class Published(NamedTuple):
    """The tensors that all jobs of a request share, in shared memory."""

    packed: PackedTensors
    block: Lease | None  # held for as long as this object


@dataclass(eq=False)
class Slot:
    """The server's record of a worker process."""

    process: BaseProcess
    pipe: Connection
    notes: Lease  # a block with the number of the job it computes; 0 before the first
    mapped_block: MappedBlock = field(default_factory=MappedBlock)  # maps the blocks of the process
    begun: float = field(default_factory=time.monotonic)
    is_up: bool = False
    common: "Published | None" = None  # the shared tensors that it has read
    read: dict[int, Lease | None] = field(
        default_factory=dict
    )  # number of a job -> the block with its tensors

    def is_late(self, now: float) -> bool:
        """Whether it should have been up by now."""
        return not self.is_up and now >= self.begun + PATIENCE


class ProcessWorkers:
    """Worker processes on this machine."""

    lives = 2

    def __init__(self, worker: Worker, size: int, config: RunConfig | None = None) -> None:
        self.size = size
        self._worker = worker
        self._config = config
        # Forking is safe on Linux only, and only in a process that has not used CUDA.
        self._forks = sys.platform == "linux" and worker.compute.type == "cpu"

    def start(self) -> None:
        """Start all processes and wait until they are up.

        Raises:
            FedadaptError: One cannot be started.

        """
        self._slots: dict[int, Slot] = {}
        self._events: list[Up | Done | Down] = []
        with ExitStack() as stack:
            self._folder: Path | None = None
            if not hasattr(os, "memfd_create"):
                made = tempfile.TemporaryDirectory(prefix="fedadapt-")
                self._folder = Path(stack.enter_context(made))
            self._pool = Pool(self._folder)
            stack.callback(self._pool.close)
            stack.callback(self._end_all)
            for slot in range(self.size):
                self._begin(slot)
            events: list[Up | Done | Down] = []
            while not all(slot.is_up for slot in self._slots.values()):
                events += self.wait(PATIENCE)
            self._events = events
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """End all processes; they hold nothing that would have to be saved."""
        self._stack.close()

    def publish(self, tree: Tree) -> Published:
        return Published(*self._pack(tree))

    def submit(self, slot: int, number: int, job: Job, common: Published, per_client: Tree) -> None:
        worker = self._slots[slot]
        packed, worker.read[number] = self._pack(per_client)
        known = worker.common is common
        worker.common = common
        task = Task(
            number, job, None if known else common.packed, packed, worker.mapped_block.unused()
        )
        with suppress(OSError):  # the process died, which ``wait`` reports
            worker.pipe.send(task)

    def wait(self, seconds: float) -> list[Up | Done | Down]:
        if self._events:  # left from ``start``
            events, self._events = self._events, []
            return events
        pipes = {worker.pipe: slot for slot, worker in self._slots.items()}
        ready = wait(list(pipes), timeout=seconds)
        if not ready and any(w.is_late(time.monotonic()) for w in self._slots.values()):
            raise FedadaptError(f"workers: a process is not up after {PATIENCE:.0f} s")
        received = [self._heard(pipes[pipe]) for pipe in ready]  # type: ignore[index]
        return [event for event in received if event is not None]

    def end(self, slot: int) -> None:
        self._slots[slot].process.kill()  # also one that is stopped; its pipe closes

    def _heard(self, slot: int) -> Up | Done | Down | None:
        worker = self._slots[slot]
        try:
            message: Message = worker.pipe.recv()
            reply = received(message, worker.mapped_block) if worker.is_up else None
        except (EOFError, OSError):  # the process died, perhaps before its blocks were opened here
            return self._died(slot)
        if message.trouble:
            self._build_anew(slot, message.trouble)
            return None
        if reply is None:
            worker.is_up = True
            return Up(slot)
        del worker.read[message.number]
        return Done(slot, message.number, reply)

    def _died(self, slot: int) -> Down:
        worker = self._slots.pop(slot)
        how = _ended(worker)
        if not worker.is_up:
            raise FedadaptError(f"workers: {how} before it was up")
        self._begin(slot)
        return Down(slot, how, memoryview(worker.notes.block.memory).cast("q")[0])

    def _build_anew(self, slot: int, trouble: str) -> None:
        """Spawn a process that could not be forked, and all later ones too."""
        _ended(self._slots.pop(slot))
        if not self._forks or self._config is None:
            raise FedadaptError(f"workers: a process cannot be started: {trouble}")
        log.info("worker processes are not forked but build all anew: %s", trouble)
        self._forks = False
        self._begin(slot)

    def _begin(self, slot: int) -> None:
        server_end, worker_end = multiprocessing.Pipe()
        notes = Lease(self._pool, 8)
        notes.block.memory[:8] = bytes(8)
        memory = (notes.block.path, len(notes.block.memory))
        process = self._process(WorkerHandles(worker_end, memory, self._folder), server_end)
        try:
            with warnings.catch_warnings():  # the child does not need threads
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
        except OSError as error:
            server_end.close()
            raise FedadaptError(f"workers: a process cannot be started: {error}") from error
        finally:
            worker_end.close()  # otherwise the end of the process would not close the pipe
        self._slots[slot] = Slot(process, server_end, notes)

    def _process(self, handles: WorkerHandles, server_end: Connection) -> BaseProcess:
        if self._forks:
            arguments = (
                self._worker,
                handles,
                [server_end, *(w.pipe for w in self._slots.values())],
            )
            context = multiprocessing.get_context("fork")
            return context.Process(target=forked, args=arguments, daemon=True)
        if self._config is None:
            raise ValueError("config: a process that cannot be forked needs it to build from")
        anew = multiprocessing.get_context("spawn")
        return anew.Process(target=spawned, args=(self._config, handles), daemon=True)

    def _end_all(self) -> None:
        for worker in self._slots.values():
            worker.process.kill()
        for worker in self._slots.values():
            _ended(worker)
        self._slots.clear()

    def _pack(self, tree: Tree) -> tuple[PackedTensors, Lease | None]:
        lent: list[Lease] = []

        def take(size: int) -> Block:
            lent.append(Lease(self._pool, size))
            return lent[0].block

        return pack(tree, take), lent[0] if lent else None


def _ended(worker: Slot) -> str:
    """Clean up a process that is ending or has ended, and return how it ended."""
    worker.pipe.close()
    worker.process.join(1.0)
    if worker.process.exitcode is None:
        worker.process.kill()
        worker.process.join()
    number, code = worker.process.pid, worker.process.exitcode or 0
    worker.process.close()
    if code < 0:
        return f"process {number} was killed by {signal.Signals(-code).name}"
    return f"process {number} ended with exit code {code}"
