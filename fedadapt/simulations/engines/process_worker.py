"""The worker process: jobs and replies pass through a pipe, tensors through shared memory."""

import gc
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch

from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError
from fedadapt.simulations.engines.jobs import SIDE_BY_SIDE, Job, Reply, perform
from fedadapt.simulations.engines.kept_pages import keep_pages
from fedadapt.simulations.engines.serialization import Layout, Tree, layout, read, write
from fedadapt.simulations.engines.shared_memory import Block, MappedBlock, Pool
from fedadapt.simulations.worker import Worker

SMALL = 2**15  # bytes: trees up to this size go through the pipe


class PackedTensors(NamedTuple):
    """Packed tensors: their bytes, or the block of shared memory that holds them."""

    slots: Layout
    content: bytearray | tuple[str, int]  # or the path and the size of a block


class Task(NamedTuple):
    """A message from the server to a worker: one job."""

    number: int
    job: Job
    common: PackedTensors | None  # None: the same as in the task before
    per_client: PackedTensors
    unused: list[str]  # blocks of the worker that the server no longer reads


class Message(NamedTuple):
    """A message from a worker to the server: it is up, cannot start (``trouble``), or replies."""

    number: int = -1
    reply: tuple[Any, dict[str, PackedTensors]] | None = None
    trouble: str = ""
    interrupted: bool = False


def pack(tree: Tree, take: Callable[[int], Block], *, side_by_side: bool = False) -> PackedTensors:
    """Pack tensors; ``take`` returns a block of at least so many bytes."""
    slots, size = layout(tree, side_by_side=side_by_side)
    if size <= SMALL:
        content = bytearray(size)
        write(tree, slots, content)
        return PackedTensors(slots, content)
    block = take(size)
    write(tree, slots, block.memory)
    return PackedTensors(slots, (block.path, len(block.memory)))


def unpack(packed: PackedTensors, mapped_block: MappedBlock) -> dict[Any, Any]:
    """Return the tensors as views of the packed memory, without copying."""
    content = packed.content
    memory = content if isinstance(content, bytearray) else mapped_block.memory(*content)
    return read(packed.slots, memory)


class WorkerHandles(NamedTuple):
    """What a worker process gets from the server when it starts."""

    pipe: Connection  # tasks in, messages out
    notes: tuple[str, int]  # path and size of a block with the number of the current task
    folder: Path | None  # of the blocks' files, if memory cannot be anonymous


def forked(worker: Worker, handles: WorkerHandles, server_pipes: list[Connection]) -> None:
    """Run a forked process, which has inherited the worker, and the server's pipes too."""
    for pipe in server_pipes:  # the server's ends, which must close when the server ends
        pipe.close()
    gc.freeze()  # the collector must not touch inherited pages, or they are copied
    _prepare()
    try:
        _differentiate()
    except RuntimeError as error:
        handles.pipe.send(Message(trouble=str(error)))
        return
    _serve(worker, handles)


def spawned(config: RunConfig, handles: WorkerHandles) -> None:
    """Run a spawned process, which has inherited nothing and assembles the worker itself."""
    from fedadapt.simulations.assembly import assemble

    _prepare()
    try:
        worker = assemble(config).worker
    except FedadaptError as error:
        handles.pipe.send(Message(trouble=str(error)))
        return
    _serve(worker, handles)


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_pages()


def _differentiate() -> None:
    """Run a backward pass, which fails after a fork if the server has used a GPU before."""
    torch.ones(1, requires_grad=True).sum().backward()


def _serve(worker: Worker, handles: WorkerHandles) -> None:
    pipe, pool, mapped_block = handles.pipe, Pool(handles.folder), MappedBlock()
    notes = mapped_block.memory(*handles.notes).cast("q")
    busy: dict[str, Block] = {}  # written here and not yet released by the server
    tasks: SimpleQueue[Task] = SimpleQueue()

    def listen() -> None:
        """Receive tasks while others are computed; end the process when the server ends."""
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
            common = unpack(task.common, mapped_block)
        try:
            reply = perform(worker, task.job, common, unpack(task.per_client, mapped_block))
        except KeyboardInterrupt:  # the server raises it again
            pipe.send(Message(task.number, interrupted=True))
        else:
            parts = {
                name: pack(tree, take, side_by_side=name in SIDE_BY_SIDE)
                for name, tree in reply.parts.items()
            }
            pipe.send(Message(task.number, (reply.metadata, parts)))
            del reply, parts
        mapped_block.unused()


def received(message: Message, mapped_block: MappedBlock) -> Reply:
    """Return the reply in a message; its tensors are views of the worker's blocks."""
    if message.interrupted or message.reply is None:
        raise KeyboardInterrupt
    metadata, parts = message.reply
    return Reply(metadata, {name: unpack(packed, mapped_block) for name, packed in parts.items()})
