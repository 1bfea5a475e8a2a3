"""Rounds on a Ray cluster of 1, 2 and 4 nodes, all on this machine: `python -m benchmarks.cluster`.

Each node has one core and one actor, a raylet and an object store of its own. Shown are the bytes
that a round hands to Ray (what all jobs share, put into the object store once and copied to each
further node; what a job carries beside it; answers), and the share of the processor's time that
is spent outside the actors: our main process and Ray's own. On a machine with fewer cores than
nodes the seconds say nothing about a cluster, but these two do.
"""

import argparse
import json
import os
import secrets
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.clock import Clock, Enough, Model
from benchmarks.engines.ours import Timed, WorkerSpec, assembly
from benchmarks.memory import cpu_seconds, tree
from benchmarks.works import Work, parsed
from fedadapt.server.client_states import ClientStates
from fedadapt.simulations.engines.jobs import Job
from fedadapt.simulations.engines.ray_clients import Published, RayWorkers
from fedadapt.simulations.engines.scheduler import Done, Down, Up
from fedadapt.simulations.engines.serialization import Tree, layout
from fedadapt.simulations.engines.worker_pool import WorkerPoolClients
from fedadapt.simulations.run import run as run_folder

ENOUGH = 0.05  # of the processor's time, outside the actors


class CountedWorkers(RayWorkers):
    """Ray actors; what is handed to them and comes back is counted, and so is their time."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.moved: Counter[str] = Counter()  # bytes

    def publish(self, tree: Tree) -> Published:
        self.moved["shared"] += layout(tree)[1]
        return super().publish(tree)

    def submit(self, slot: int, number: int, job: Job, common: Published, per_client: Tree) -> None:
        self.moved["jobs"] += layout(per_client)[1]
        super().submit(slot, number, job, common, per_client)

    def wait(self, seconds: float) -> list[Up | Done | Down]:
        events = super().wait(seconds)
        for event in events:
            if isinstance(event, Done):
                self.moved["answers"] += sum(layout(t)[1] for t in event.reply.parts.values())
        return events

    @property
    def cpu_seconds(self) -> float:
        """Of all actors, since they began."""
        return sum(cpu_seconds(process) for process, _ in self._places.values())


class Spent(NamedTuple):
    """What has been used so far, or in a round."""

    actors: float  # seconds of the processor
    everything: float  # ... of all processes, ours and Ray's as well
    shared: int  # bytes
    jobs: int
    answers: int

    @property
    def outside(self) -> float:
        """The share of the processor's time that is spent outside the actors."""
        return 1 - self.actors / self.everything if self.everything else float("nan")


class SpendingClock(Clock):
    """What each round but the first uses."""

    def __init__(self, seconds: float, workers: CountedWorkers) -> None:
        super().__init__(seconds)
        self._workers = workers
        self._so_far: list[Spent] = []

    def tick(self, model: Model | None = None) -> None:
        everything = sum(map(cpu_seconds, tree(os.getpid())))
        moved = self._workers.moved
        bytes_moved = (moved["shared"], moved["jobs"], moved["answers"])
        self._so_far.append(Spent(self._workers.cpu_seconds, everything, *bytes_moved))
        super().tick(model)

    @property
    def spent(self) -> Spent:
        """In a round, on average over the rounds after the first."""
        first, last = self._so_far[1], self._so_far[-1]
        count = len(self._so_far) - 2
        return Spent(*((b - a) / count for a, b in zip(first, last, strict=True)))  # type: ignore[arg-type]


def measured(work: Work, nodes: int, seconds: float) -> tuple[Spent, float]:
    """Run rounds on a cluster of so many nodes; what a round uses, and how long it takes."""
    with nodes_of(nodes) as address, tempfile.TemporaryDirectory() as folder:
        made = assembly(work, engine="ray", ray_address=address, workers=nodes)
        worker_spec: Any = WorkerSpec(work, {})
        manifest = made.benchmark.manifest.hash
        workers = CountedWorkers(worker_spec, manifest, address, nodes, 0.0)
        clock = SpendingClock(seconds, workers)
        states, size = ClientStates(Path(folder)), made.plan.cohort_size
        pool = WorkerPoolClients(made.worker, workers, cohort_size=size, client_states=states)
        with pool, suppress(Enough):
            run_folder(made, Timed(pool, clock), Path(folder))  # type: ignore[arg-type]
        return clock.spent, statistics.median(clock.rounds)


@contextmanager
def nodes_of(count: int) -> Iterator[str]:
    """A Ray cluster of so many nodes with one core each; its address."""
    os.environ |= {  # before Ray reads them
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 2**28}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        for _ in range(count - 1):
            cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", nargs="+", type=parsed, default=[parsed("W1"), parsed("W3:100")])
    parser.add_argument("--nodes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=10.0, help="of a measurement, at least")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=None if sys.stdout.isatty() else 110)
    facts = []
    for work in given.work:
        found: dict[int, tuple[Spent, float]] = {}
        for nodes in given.nodes:
            with console.status(f"{work.name}: {nodes} nodes"):
                found[nodes] = measured(work, nodes, given.seconds)
            spent, seconds = found[nodes]
            facts.append(
                {"work": work.name, "clients": work.clients, "nodes": nodes, "seconds": seconds}
                | spent._asdict()
                | {"outside": spent.outside}
            )
            if given.json:
                given.json.write_text(json.dumps(facts, indent=1))
        console.print(f"[bold]{work.name}[/bold]: {work.clients} clients, {work.title}")
        console.print(table(found))


def table(found: Mapping[int, tuple[Spent, float]]) -> Table:
    """A row for each number of nodes; bytes in MiB a round."""
    columns = (
        "shared, MiB",
        "copied to nodes",
        "jobs",
        "answers",
        "CPU s a round",
        "outside actors",
    )
    shown = Table("nodes", *columns, "")
    for nodes, (spent, _) in found.items():
        mebibytes = (spent.shared, spent.shared * (nodes - 1), spent.jobs, spent.answers)
        shown.add_row(
            str(nodes),
            *(f"{size / 2**20:.2f}" for size in mebibytes),
            f"{spent.everything:.3g}",
            f"{spent.outside:.1%}",
            "" if spent.outside < ENOUGH else "above 5 %",
        )
    return shown


if __name__ == "__main__":
    main()
