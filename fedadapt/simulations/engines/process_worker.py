"""What runs in a worker process: jobs in through a pipe, replies out, tensors in shared memory."""

import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch

from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError
from fedadapt.simulations.engines.jobs import Job, Reply, perform
from fedadapt.simulations.engines.serialization import Layout, Tree, layout, read, write
from fedadapt.simulations.engines.shared_memory import Block, MappedBlock, Pool
from fedadapt.simulations.worker import Worker

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
SMALL = 2**15  # bytes: what is not larger goes through the pipe


class PackedTensors(NamedTuple):
    """Packed tensors on their way, or where they lie."""

    slots: Layout
    content: bytearray | tuple[str, int]  # or the path and the size of a block


class Task(NamedTuple):
    """Server -> worker."""

    number: int
    job: Job
    common: PackedTensors | None  # None: as in the task before
    own: PackedTensors
    unused: list[str]  # blocks of the worker's that the server is done with


class Message(NamedTuple):
    """Worker -> server: that it is up, that it cannot be (``trouble``), or what it found."""

    number: int = -1
    reply: tuple[Any, dict[str, PackedTensors]] | None = None
    trouble: str = ""
    interrupted: bool = False


def pack(tree: Tree, take: Callable[[int], Block]) -> PackedTensors:
    """Pack tensors; ``take`` gives a block for so many bytes."""
    slots, size = layout(tree)
    if size <= SMALL:
        content = bytearray(size)
        write(tree, slots, content)
        return PackedTensors(slots, content)
    block = take(size)
    write(tree, slots, block.memory)
    return PackedTensors(slots, (block.path, len(block.memory)))


def unpack(packed: PackedTensors, mapped_block: MappedBlock) -> dict[Any, Any]:
    """The tensors, where they are: nothing is copied."""
    content = packed.content
    memory = content if isinstance(content, bytearray) else mapped_block.memory(*content)
    return read(packed.slots, memory)


class WorkerHandles(NamedTuple):
    """What a worker process has of the server's."""

    pipe: Connection  # tasks in, messages out
    notes: tuple[str, int]  # a block: the number of the task being done
    folder: Path | None  # for blocks, where memory cannot be anonymous


def forked(worker: Worker, handles: WorkerHandles, not_ours: list[Connection]) -> None:
    """Main function of a process that has everything already, and more than it should have."""
    for pipe in not_ours:  # the server's ends: pipes are to end with the server
        pipe.close()
    gc.freeze()  # what is there stays: looking at it would copy its pages
    _prepare()
    try:
        _differentiate()
    except RuntimeError as error:
        handles.pipe.send(Message(trouble=str(error)))
        return
    _serve(worker, handles)


def spawned(config: RunConfig, handles: WorkerHandles) -> None:
    """Main function of a process that knows nothing."""
    from fedadapt.simulations.assembly import assemble

    _prepare()
    try:
        worker = assemble(config).worker
    except FedadaptError as error:
        handles.pipe.send(Message(trouble=str(error)))
        return
    _serve(worker, handles)


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server to answer
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    _keep_pages()


def _keep_pages() -> None:
    """Large tensors come and go at every step: have glibc use their pages again, not unmap them.

    Worth a tenth of the time of a stack of convolutions.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, AttributeError):  # another C library: no matter
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most it takes
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def _differentiate() -> None:
    """Try what does not survive a fork where there is a GPU and the server has used it before."""
    torch.ones(1, requires_grad=True).sum().backward()


def _serve(worker: Worker, handles: WorkerHandles) -> None:
    pipe, pool, theirs = handles.pipe, Pool(handles.folder), MappedBlock()
    notes = theirs.memory(*handles.notes).cast("q")
    busy: dict[str, Block] = {}  # written, not yet read by the server
    tasks: SimpleQueue[Task] = SimpleQueue()

    def listen() -> None:
        """Take in tasks, whatever is computed, and end when the server does."""
        try:
            while True:
                tasks.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(1)

    def take(size: int) -> Block:
        block = pool.take(size)
        busy[block.path] = block
        return block

    threading.Thread(target=listen, daemon=True).start()
    common: Tree = {}
    pipe.send(Message())
    while True:
        task = tasks.get()
        notes[0] = task.number
        for path in task.unused:
            pool.give(busy.pop(path))
        if task.common is not None:
            common = unpack(task.common, theirs)
        try:
            reply = perform(worker, task.job, common, unpack(task.own, theirs))
        except KeyboardInterrupt:  # as if it had been raised where the server is
            pipe.send(Message(task.number, interrupted=True))
        else:
            parts = {name: pack(tree, take) for name, tree in reply.parts.items()}
            pipe.send(Message(task.number, (reply.metadata, parts)))
            del reply, parts
        theirs.unused()


def received(message: Message, mapped_block: MappedBlock) -> Reply:
    """A worker's reply; its tensors are views of the worker's blocks."""
    if message.interrupted or message.reply is None:
        raise KeyboardInterrupt
    metadata, parts = message.reply
    return Reply(metadata, {name: unpack(packed, mapped_block) for name, packed in parts.items()})
