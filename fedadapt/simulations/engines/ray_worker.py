"""What runs in a Ray actor. Ray itself is not needed here."""

import os
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError
from fedadapt.simulations.engines.jobs import Job, Reply, perform
from fedadapt.simulations.engines.serialization import Layout, Tree, layout, read, write
from fedadapt.simulations.worker import Worker

DATA = "FEDADAPT_DATA"


class Packed(NamedTuple):
    """Tensors in one array, which Ray neither looks into nor copies on its way to a process."""

    slots: Layout
    content: NDArray[np.uint8]

    @staticmethod
    def of(tree: Tree) -> "Packed":
        slots, size = layout(tree)
        content = np.zeros(size, np.uint8)
        write(tree, slots, content)
        return Packed(slots, content)

    def tree(self) -> Tree:
        """The tensors, copied: Ray's memory is shared, and to write into it is to crash."""
        return read(self.slots, self.content.copy())


class WorkerSpec(NamedTuple):
    """What a worker is built from, on whichever machine."""

    config: RunConfig
    data_root: str  # where the server has its data, for machines that do not say

    def build(self) -> Worker:
        from fedadapt.simulations.assembly import assemble

        if self.data_root:
            os.environ.setdefault(DATA, self.data_root)
        return assemble(self.config).worker

    @staticmethod
    def of(config: RunConfig, gpus: float) -> "WorkerSpec":
        """Actors compute on the GPU if, and only if, they have a share of one."""
        device = config.device
        if device == "auto":
            device = "cuda" if gpus else "cpu"
        return WorkerSpec(replace(config, device=device), os.environ.get(DATA, ""))


class State(NamedTuple):
    """How a worker began."""

    manifest: str  # of its data
    trouble: str  # why it did not


class Answered(NamedTuple):
    """A reply on its way."""

    metadata: list[tuple]  # type: ignore[type-arg]
    parts: dict[str, Packed]

    def reply(self) -> Reply:
        return Reply(self.metadata, {name: packed.tree() for name, packed in self.parts.items()})


class RayActor:
    """One actor: built once, its data stay, and of a request's common tensors it has one copy."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._request = -1

    def begin(self, worker_spec: WorkerSpec) -> State:
        try:
            self._worker = worker_spec.build()
        except FedadaptError as error:
            return State("", str(error))
        return State(self._worker.benchmark.manifest.hash, "")

    def do(
        self, job: Job, request: int, slots: Layout, common: NDArray[np.uint8], own: Packed
    ) -> Answered | None:
        """Do a job; None if it was interrupted."""
        if request != self._request:
            self._request, self._common = request, Packed(slots, common).tree()
        try:
            reply = perform(self._worker, job, self._common, own.tree())
        except KeyboardInterrupt:
            return None
        return Answered(
            reply.metadata, {name: Packed.of(tree) for name, tree in reply.parts.items()}
        )
