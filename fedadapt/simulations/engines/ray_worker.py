"""The worker in a Ray actor. This file does not import Ray."""

import os
import platform
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError
from fedadapt.simulations.engines.jobs import SIDE_BY_SIDE, Job, Reply, perform
from fedadapt.simulations.engines.kept_pages import keep_pages
from fedadapt.simulations.engines.serialization import Layout, Tree, layout, read, write
from fedadapt.simulations.worker import Worker

DATA = "FEDADAPT_DATA"


class Packed(NamedTuple):
    """Tensors packed into one array, which Ray passes to another process without copying it."""

    slots: Layout
    content: NDArray[np.uint8]

    @staticmethod
    def of(tree: Tree, *, side_by_side: bool = False) -> "Packed":
        slots, size = layout(tree, side_by_side=side_by_side)
        content = np.zeros(size, np.uint8)
        write(tree, slots, content)
        return Packed(slots, content)

    def tree(self) -> Tree:
        """Return copies of the tensors: Ray's memory is shared, and writing into it crashes."""
        return read(self.slots, self.content.copy())


class WorkerSpec(NamedTuple):
    """All that is needed to build the worker on another machine."""

    config: RunConfig
    data_root: str  # the server's, used on machines that do not set FEDADAPT_DATA

    def build(self) -> Worker:
        from fedadapt.simulations.assembly import assemble

        if self.data_root:
            os.environ.setdefault(DATA, self.data_root)
        return assemble(self.config).worker

    @staticmethod
    def of(config: RunConfig, gpus: float) -> "WorkerSpec":
        """Return the specification of actors; they use a GPU if their share ``gpus`` is above 0."""
        device = config.device
        if device == "auto":
            device = "cuda" if gpus else "cpu"
        return WorkerSpec(replace(config, device=device), os.environ.get(DATA, ""))


class State(NamedTuple):
    """The result of an actor's start."""

    manifest: str  # of its data
    trouble: str  # why it could not start; empty if it did
    process: int = 0  # its number
    machine: str = ""  # where it runs


class Answered(NamedTuple):
    """A reply with its tensors packed."""

    metadata: list[tuple]  # type: ignore[type-arg]
    parts: dict[str, Packed]

    def reply(self) -> Reply:
        return Reply(self.metadata, {name: packed.tree() for name, packed in self.parts.items()})


class RayActor:
    """An actor. It keeps its data, and one copy of the tensors that a request's jobs share."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        keep_pages()
        self._request = -1

    def begin(self, worker_spec: WorkerSpec) -> State:
        try:
            self._worker = worker_spec.build()
        except FedadaptError as error:
            return State("", str(error))
        manifest = self._worker.benchmark.manifest.hash
        return State(manifest, "", os.getpid(), platform.node())

    def do(
        self, job: Job, request: int, slots: Layout, common: NDArray[np.uint8], per_client: Packed
    ) -> Answered | None:
        """Compute a job; return None if it was interrupted."""
        if request != self._request:
            self._request, self._common = request, Packed(slots, common).tree()
        try:
            reply = perform(self._worker, job, self._common, per_client.tree())
        except KeyboardInterrupt:
            return None
        parts = {
            name: Packed.of(tree, side_by_side=name in SIDE_BY_SIDE)
            for name, tree in reply.parts.items()
        }
        return Answered(reply.metadata, parts)
