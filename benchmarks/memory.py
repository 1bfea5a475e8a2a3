"""Memory of whole runs with many registered clients: `fedadapt simulate`, watched from outside.

Work: W1, an MLP 64-100-100-10 on the built-in digits, 100 images a client, one local epoch in
batches of 20; 1 % of the clients a round, evaluations as a run makes them. Counted is the peak of
all the run's processes together: what each has for itself, and the most that one of them shares,
which forked workers share with each other and libraries perhaps with a neighbour's programs.

  python benchmarks/memory.py --clients 1000000 --per-round 1000

has so many clients in each round and in each evaluation instead, and no training alone. A run has
started up when its manifest is written: clients have their images, and workers wait for the first
round. Seconds are also those of the processor, which a busy machine changes little.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

MOST = 2 * 2**30  # bytes: what 10,000 registered clients may take
GROWTH = 0.20  # from 1,000 to 10,000
START_UP = 60.0  # seconds of the processor with 1,000,000
EVERY = 0.05  # seconds between two looks
W1 = {
    "--benchmark": "digits-classes",
    "--examples": "100",
    "--model": "mlp",
    "--adapt": "none",
    "--local-epochs": "1",
    "--batch-size": "20",
    "--lr": "0.05",
    "--momentum": "0.5",
    "--fraction": "0.01",
}


class Measured(NamedTuple):
    """A run, from the outside."""

    clients: int
    peak: int  # bytes of all its processes at once
    processes: int  # at most at once
    seconds: float
    start_up: float  # seconds of them
    start_up_cpu: float  # seconds of the processor, of all its processes


def tree(root: int) -> Iterator[int]:
    """``root`` and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):  # it may just have ended
                # The name of the program, in brackets, may hold anything.
                after = (entry / "stat").read_text().rpartition(")")[2]
                parents[int(entry.name)] = int(after.split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return iter(found)


def memory(pid: int) -> tuple[int, int]:
    """Bytes of a process: its own, and what it shares; zeros of one that has ended."""
    own = shared = 0
    with contextlib.suppress(OSError):
        for line in (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Private_"):
                own += 1024 * int(line.split()[1])
            elif line.startswith("Shared_"):
                shared += 1024 * int(line.split()[1])
    return own, shared


def cpu_seconds(pid: int) -> float:
    """Of a process and of those that it has waited for; 0 of one that has ended."""
    with contextlib.suppress(OSError):
        after = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return sum(map(int, after[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def run(clients: int, rounds: int, more: Sequence[str], per_round: int = 0) -> Measured:
    """Simulate, and look at the processes until they are gone.

    Args:
        per_round: Clients in a round and in an evaluation; 0: 1 % in a round.

    """
    with tempfile.TemporaryDirectory() as folder:
        settings = W1 | {"--clients": str(clients), "--rounds": str(rounds)}
        if per_round:
            settings |= {"--fraction": str(per_round / clients)}
            more = ["--evaluate-clients", str(per_round), "--no-local", *more]
        command = [sys.executable, "-m", "fedadapt", "simulate"]
        command += [word for pair in settings.items() for word in pair]
        command += ["--out", f"{folder}/run", *more]
        began = time.perf_counter()
        peak = processes = 0
        start_up = start_up_cpu = float("nan")
        log = Path(folder) / "log"
        with log.open("wb") as file:
            child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            while child.poll() is None:
                family = list(tree(child.pid))
                if start_up != start_up and Path(folder, "run", "manifest.json").exists():
                    start_up = time.perf_counter() - began
                    start_up_cpu = sum(map(cpu_seconds, family))
                sizes = [size for pid in family if any(size := memory(pid))]
                own, shared = zip(*sizes, strict=True) if sizes else ((0,), (0,))
                peak, processes = max(peak, sum(own) + max(shared)), max(processes, len(sizes))
                time.sleep(EVERY)
        if child.returncode:
            raise SystemExit(f"{' '.join(command)}:\n{log.read_text(errors='replace')}")
        seconds = time.perf_counter() - began
        return Measured(clients, peak, processes, seconds, start_up, start_up_cpu)


def verdicts(found: Sequence[Measured]) -> list[tuple[str, bool]]:
    """What is asked of 10,000 clients, and whether it holds; nothing where it was not measured."""
    peaks = {one.clients: one.peak for one in found}
    said = []
    if 10_000 in peaks:
        holds = peaks[10_000] < MOST
        said.append((f"10,000 clients: {peaks[10_000] / 2**30:.2f} GiB, below 2 GiB", holds))
    if {1_000, 10_000} <= peaks.keys():
        growth = peaks[10_000] / peaks[1_000] - 1
        said.append((f"1,000 to 10,000 clients: {growth:+.1%}, below +20 %", growth < GROWTH))
    for one in found:
        if one.clients == 1_000_000:
            words = f"1,000,000 clients: {one.start_up_cpu:.0f} CPU s of start-up, below 60 s"
            said.append((words, one.start_up_cpu < START_UP))
    return said


def main(arguments: Sequence[str] | None = None) -> None:
    if not Path("/proc/self/smaps_rollup").is_file():
        raise SystemExit("/proc/self/smaps_rollup: not there; memory is measured on Linux only")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-round", type=int, default=0, help="clients (default: 1 %%)")
    given, more = parser.parse_known_args(arguments)  # the rest is for `fedadapt simulate`
    console = Console(width=None if sys.stdout.isatty() else 110)
    found = []
    for clients in given.clients:
        with console.status(f"{clients:,} clients"):
            found.append(run(clients, given.rounds, more, given.per_round))
    columns = ("peak, MiB", "times the first", "processes", "seconds", "start-up, s", "... CPU s")
    table = Table("registered clients", *columns)
    for one in found:
        table.add_row(
            f"{one.clients:,}",
            f"{one.peak / 2**20:,.0f}",
            f"{one.peak / found[0].peak:.2f}",
            str(one.processes),
            f"{one.seconds:.0f}",
            f"{one.start_up:.1f}",
            f"{one.start_up_cpu:.1f}",
        )
    console.print(table)
    said = verdicts(found)
    for words, holds in said:
        console.print(f"{words}: {'holds' if holds else 'DOES NOT HOLD'}", highlight=False)
    if not all(holds for _, holds in said):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
