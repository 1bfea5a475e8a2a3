"""What another user costs, of DUA, once the experts are there: `python -m benchmarks.personalise`.

Work: `fedadapt simulate` with MAS-RACL: every user's importances of every expert, a merge for each
user after each task, and all tests of the base and of the personal models. The experts are trained
before, by a run of two users that is not counted. Seconds a user are those beyond the smallest run.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.memory import EVERY, memory, tree

WORK = {"--benchmark": "digits-tasks", "--rounds": "5", "--model": "mlp", "--adapt": "none"}


class Measured(NamedTuple):
    """A run, from the outside."""

    users: int
    seconds: float
    cpu_seconds: float  # of all its processes: steadier on a busy machine
    peak: int  # bytes of all its processes at once


def run(users: int, folder: Path, arguments: str, more: Sequence[str]) -> Measured:
    """Simulate, and look at the processes until they are gone."""
    words = f"expert_folder={folder / 'experts'} {arguments}".strip()
    settings = WORK | {"--clients": str(users), "--strategy": "mas-racl", "--strategy-args": words}
    command = [sys.executable, "-m", "fedadapt", "simulate"]
    command += [word for pair in settings.items() for word in pair]
    with tempfile.TemporaryDirectory(dir=folder) as out, (folder / "log").open("wb") as log:
        command += [*more, "--out", f"{out}/run"]
        began, spent, peak = time.perf_counter(), cpu_seconds(), 0
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        while child.poll() is None:
            sizes = [memory(pid) for pid in tree(child.pid)]
            peak = max(peak, sum(own for own, _ in sizes) + max((s for _, s in sizes), default=0))
            time.sleep(EVERY)
        seconds = time.perf_counter() - began
    if child.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{(folder / 'log').read_text(errors='replace')}")
    return Measured(users, seconds, cpu_seconds() - spent, peak)


def cpu_seconds() -> float:
    """Of all processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def shown(found: Sequence[Measured]) -> Table:
    table = Table("users", "seconds", "CPU seconds", "... a user", "peak MiB", "KiB a user")
    first = found[0]
    for one in found:
        cells = [f"{one.users:,}", f"{one.seconds:.1f}", f"{one.cpu_seconds:.1f}", ""]
        cells += [f"{one.peak / 2**20:.0f}", ""]
        if one is not first:
            more = one.users - first.users
            cells[3] = f"{(one.cpu_seconds - first.cpu_seconds) / more:.3f}"
            cells[5] = f"{(one.peak - first.peak) / 2**10 / more:+.0f}"
        table.add_row(*cells)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--training", default="", help='of experts, e.g. "epochs=2 upload=log8"')
    given, more = parser.parse_known_args(arguments)  # the rest is for `fedadapt simulate`
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        run(2, Path(folder), given.training, more)
        found = []
        for users in sorted(given.users):
            console.print(f"{users:,} users ...", style="dim")
            found.append(run(users, Path(folder), given.training, more))
    console.print(shown(found))


if __name__ == "__main__":
    main()
