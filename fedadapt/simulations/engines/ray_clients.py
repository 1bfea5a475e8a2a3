"""The engine that computes clients in Ray actors, on this machine or on those of a cluster.

Each actor loads data and network once. The models of a request are put into the object store once,
and are copied from there to each machine once. An actor that dies is replaced, and its clients are
computed again.
"""

import itertools
import os
import platform
import signal
import time
from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple

from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError, InputError
from fedadapt.simulations.engines.jobs import Job
from fedadapt.simulations.engines.ray_cluster import RayCluster
from fedadapt.simulations.engines.ray_worker import Packed, RayActor, State, WorkerSpec
from fedadapt.simulations.engines.scheduler import Done, Down, Up
from fedadapt.simulations.engines.serialization import Layout, Tree
from fedadapt.simulations.engines.worker_pool import Keeps, WorkerPoolClients
from fedadapt.simulations.worker import Worker

PATIENCE = 600.0  # seconds for actors to start, which may have to wait for machines


class RayClients(WorkerPoolClients):
    """Clients in cohorts of at most ``cohort_size``, computed in Ray actors."""

    def __init__(
        self,
        config: RunConfig,
        worker: Worker,
        *,
        address: str,
        num_workers: int,
        gpus_per_worker: float,
        cohort_size: int,
        client_states: Keeps,
    ) -> None:
        """Prepare the engine; its actors live while it is open as a context manager.

        Args:
            config: The settings of ``worker``; the actors assemble theirs from them.
            address: Of a cluster to join ("auto": the one on this machine); "" starts one here.
            num_workers: Actors; 0: as many as the cluster has cores (or shares of GPUs).
            gpus_per_worker: GPUs, or the share of one, of each.

        Raises:
            InputError: Ray is not installed.

        """
        manifest = worker.benchmark.manifest.hash
        worker_spec = WorkerSpec.of(config, gpus_per_worker)
        worker_pool = RayWorkers(worker_spec, manifest, address, num_workers, gpus_per_worker)
        super().__init__(worker, worker_pool, cohort_size=cohort_size, client_states=client_states)


class Published(NamedTuple):
    """The tensors that all jobs of a request share, in the object store."""

    request: int
    slots: Layout
    content: Any  # a reference into the object store; the last one frees the tensors


class RayWorkers:
    """A worker pool of Ray actors."""

    lives = 4  # not 2: it is not certain which job a lost actor was computing

    def __init__(
        self, worker_spec: WorkerSpec, manifest: str, address: str, num_workers: int, gpus: float
    ) -> None:
        self._ray = _imported()
        self._worker_spec = worker_spec
        self._manifest = manifest
        self._cluster = RayCluster(self._ray, address)
        self._asked_for = num_workers
        self._gpus = gpus
        self.size = num_workers
        self._actors: dict[int, Any] = {}  # by slot
        self._waiting: dict[Any, tuple[int, int]] = {}  # result -> slot, job; 0: its start
        self._requests = itertools.count(1)
        self._events: list[Up | Done | Down] = []
        self._idle_since = time.monotonic()  # nobody works, and no actor has begun
        self._places: dict[int, tuple[int, str]] = {}  # number of the process and its machine

    def start(self) -> None:
        """Connect, and start all actors.

        Raises:
            InputError: There is no cluster at the address, or it is too small.
            FedadaptError: An actor cannot be started.

        """
        self._idle_since = time.monotonic()
        self._cluster.join(self._asked_for or None)
        try:
            self.size = self._size()
            actor = self._ray.remote(num_cpus=1, num_gpus=self._gpus)(RayActor)
            self._class = actor.options(scheduling_strategy="SPREAD")
            for slot in range(self.size):
                self._begin(slot)
            events: list[Up | Done | Down] = []
            lost = Counter[int]()
            while sum(isinstance(event, Up) for event in events) < self.size:
                for event in self.wait(PATIENCE):
                    if not isinstance(event, Down):
                        events.append(event)
                        continue
                    # Its machine may just be leaving the cluster; ``_lost`` began it anew.
                    lost[event.slot] += 1
                    if lost[event.slot] == self.lives:
                        raise FedadaptError(
                            f"ray: {event.how} before it was up, {self.lives} times"
                        )
            self._events = events
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        for slot in self._actors:
            self.end(slot)
        self._actors.clear()
        self._waiting.clear()
        self._cluster.leave()

    def publish(self, tree: Tree) -> Published:
        slots, content = Packed.of(tree)
        return Published(next(self._requests), slots, self._ray.put(content))

    def submit(self, slot: int, number: int, job: Job, common: Published, per_client: Tree) -> None:
        result = self._actors[slot].do.remote(job, *common, Packed.of(per_client))
        self._waiting[result] = (slot, number)

    def end(self, slot: int) -> None:
        """End an actor, by the system where it is on this machine: Ray waits for stopped ones."""
        self._ray.kill(self._actors[slot])
        number, machine = self._places.get(slot, (0, ""))
        if number and machine == platform.node():
            with suppress(OSError):
                os.kill(number, signal.SIGKILL)

    def wait(self, seconds: float) -> list[Up | Done | Down]:
        if self._events:  # left from ``start``
            events, self._events = self._events, []
            return events
        waiting = list(self._waiting)
        ready, _ = self._ray.wait(waiting, num_returns=1, timeout=seconds)
        # A new actor may wait for a machine; this is no failure while others work.
        works = any(number for _, number in self._waiting.values())
        if ready or works:
            self._idle_since = time.monotonic()
        elif time.monotonic() >= self._idle_since + PATIENCE:
            raise FedadaptError(
                f"ray: no actor began in {PATIENCE:.0f} s; see `ray status` for what is missing"
            )
        ready, _ = self._ray.wait(waiting, num_returns=len(waiting), timeout=0)
        return [self._heard(result) for result in ready if result in self._waiting]

    def _heard(self, result: Any) -> Up | Done | Down:
        slot, number = self._waiting[result]
        try:
            value = self._ray.get(result)
        except self._ray.exceptions.RayError as error:
            return self._lost(slot, error)
        del self._waiting[result]
        if isinstance(value, State):
            return self._begun(slot, value)
        if value is None:
            raise KeyboardInterrupt  # as if it had been raised here
        return Done(slot, number, value.reply())

    def _begun(self, slot: int, state: State) -> Up:
        if state.trouble:
            raise FedadaptError(f"ray: an actor cannot begin: {state.trouble}")
        if state.manifest != self._manifest:
            raise InputError(
                f"ray: an actor has other data (manifest {state.manifest[:12]}, here "
                f"{self._manifest[:12]}); every machine needs the same files in data-root"
            )
        self._places[slot] = (state.process, state.machine)
        return Up(slot)

    def _lost(self, slot: int, error: Exception) -> Down:
        """Replace an actor that died or was lost with its machine."""
        gone = [result for result, (p, _) in self._waiting.items() if p == slot]
        numbers = [self._waiting.pop(result)[1] for result in gone]
        self._ray.kill(self._actors[slot])
        self._begin(slot)
        return Down(slot, f"{slot} (Ray) was lost: {type(error).__name__}", numbers[0])

    def _begin(self, slot: int) -> None:
        self._actors[slot] = self._class.remote()
        self._waiting[self._actors[slot].begin.remote(self._worker_spec)] = (slot, 0)

    def _size(self) -> int:
        """Return the number of actors: as many as asked for, or as many as fit."""
        resources = self._ray.cluster_resources()
        fit = int(resources.get("CPU", 0))
        if self._gpus:
            fit = min(fit, int(resources.get("GPU", 0) / self._gpus + 1e-9))
        wanted = self._asked_for or max(1, fit)
        if wanted > fit:
            raise InputError(
                f"workers: {wanted} Ray actors need {wanted} cores and {wanted * self._gpus:g} "
                f"GPUs; the cluster has {resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}"
            )
        return wanted


def _imported() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise InputError(
            'engine: ray is not installed; pip install "fedadapt[simulation]"'
        ) from None
    return ray
