"""How cost grows with the number of clients: `python -m benchmarks.growth`.

W1 with 10, 100, 1,000 and 10,000 clients, all of which train and are evaluated in every round:
fedadapt beside the bare loop on as many processes. Memory is the peak of all processes together,
counted as in ``benchmarks.memory``, PyTorch included.
"""

import argparse
import statistics
import sys
import threading
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.memory import memory, tree
from benchmarks.process import measured
from benchmarks.speed import TITLES

EVERY = 0.1  # seconds between two looks at the memory


class Grown(NamedTuple):
    """One engine with so many clients."""

    seconds: float  # of a round; nan where it failed
    peak: int  # bytes
    note: str


class Watch:
    """The peak of a process tree's memory, looked at from a thread."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()

    def begin(self, pid: int) -> None:
        threading.Thread(target=self._look, args=(pid,), daemon=True).start()

    def end(self) -> None:
        self._over.set()

    def _look(self, pid: int) -> None:
        while not self._over.wait(EVERY):
            sizes = [size for each in tree(pid) if any(size := memory(each))]
            if sizes:
                own, shared = zip(*sizes, strict=True)
                self.peak = max(self.peak, sum(own) + max(shared))


def grown(engine: str, work: str, seconds: float) -> Grown:
    """Run and watch."""
    watch = Watch()
    try:
        found = measured(engine, work, seconds, watch=watch.begin)
    finally:
        watch.end()
    median = statistics.median(found.seconds) if found.seconds else float("nan")
    return Grown(median, watch.peak, found.note)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--engines", nargs="+", default=["ours", "bare"], choices=list(TITLES))
    parser.add_argument("--work", default="W1")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement, at least")
    given = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    table = Table("clients", "engine", "seconds a round", "clients/s", "peak, MiB", "")
    for count in given.clients:
        for engine in given.engines:
            with console.status(f"{count:,} clients: {TITLES[engine]}"):
                one = grown(engine, f"{given.work}:{count}", given.seconds)
            rate = f"{count / one.seconds:,.0f}"
            cells = (f"{one.seconds:.3f}", rate, f"{one.peak / 2**20:,.0f}", one.note)
            table.add_row(f"{count:,}", TITLES[engine], *cells)
    console.print(table)


if __name__ == "__main__":
    main()
