"""What a round costs with any number of clients and workers: `python -m benchmarks.cost`.

A round of N clients on M workers is taken to last

    fixed + client N / M + message N

seconds: what it takes anyway, what workers compute side by side, and what the main process does for
each client alone. The three numbers are fitted to the processor time of some rounds, that of the
main process and that of its workers apart, and held against other rounds that the fit has not seen.
Measured beside them is the duration itself, which agrees if every worker has a core for itself and
nothing else runs. Workers are processes of this machine; a further number says what it takes to
start them.

  python -m benchmarks.cost --work W1 W3 --json cost.json
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.process import CORES, measured
from benchmarks.works import Work, parsed

Point = tuple[int, int]  # clients, workers


class Used(NamedTuple):
    """What a round uses."""

    main: float  # seconds of the processor, of the main process
    workers: float  # ... of all workers together; 0 where the main process computes alone
    seconds: float  # that it lasts

    def path(self, workers: int) -> float:
        """Seconds where nothing else runs: of the workers side by side, and of the main process."""
        return self.main + self.workers / workers


SIZES = {"W1": ((100, 400), (200, 1000)), "W2": ((16, 48), (32, 80)), "W3": ((25, 100), (50, 200))}
"""By work: numbers of clients that are fitted to, and those that the fit is held against."""
PREDICTED = ((1_000, 1), (1_000, 8), (1_000, 64), (100_000, 64))


@dataclass(frozen=True)
class Model:
    """The cost of a round, in seconds."""

    fixed: float
    client: float  # of one worker, for each client
    message: float  # of the main process, for each client

    def __call__(self, clients: int, workers: int) -> float:
        return self.fixed + self.client * clients / workers + self.message * clients


def fitted(rounds: Mapping[Point, Used]) -> Model:
    """Fit the three numbers, none below 0, with small relative errors everywhere.

    With one worker the main process does all; with more, it and its workers are told apart.

    Raises:
        ValueError: There is no round with several workers, or one number of clients only.

    """
    if len({clients for clients, _ in rounds}) < 2 or all(m == 1 for _, m in rounds):
        raise ValueError(
            "a cost model needs two numbers of clients, and rounds with several workers"
        )
    rows, right = [], []
    for (clients, workers), used in rounds.items():
        if workers == 1:
            rows.append((1.0, clients, clients))
            right.append(used.main)
        else:
            rows += [(1.0, 0.0, clients), (0.0, clients, 0.0)]
            right += [used.main, used.workers]
    seconds = np.array(right)
    return Model(*_not_negative(np.array(rows) / seconds[:, None], np.ones(len(rows))))


def _not_negative(rows: np.ndarray, right: np.ndarray) -> tuple[float, float, float]:
    """Least squares with coefficients >= 0: the best of all subsets of the three columns."""
    best, least = np.zeros(3), np.inf
    for chosen in product((False, True), repeat=3):
        some = rows[:, list(chosen)]
        solved = np.linalg.lstsq(some, right, rcond=None)[0]
        error = float(((some @ solved - right) ** 2).sum())
        if (solved >= 0).all() and error < least:
            best, least = np.zeros(3), error
            best[list(chosen)] = solved
    return float(best[0]), float(best[1]), float(best[2])


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    facts = {}
    for work in given.work:
        fit_to, held_out = SIZES[work]
        points = list(product((*fit_to, *held_out), given.workers))
        rounds: dict[Point, list[Used]] = {point: [] for point in points}
        for turn in range(given.repeats):
            for clients, workers in points:
                with console.status(f"{work}, {turn + 1}: {clients} clients, {workers} workers"):
                    rounds[clients, workers].append(_round(work, clients, workers, given.seconds))
        medians = {
            point: Used(*map(statistics.median, zip(*own, strict=True)))
            for point, own in rounds.items()
        }
        model = fitted({point: used for point, used in medians.items() if point[0] in fit_to})
        start = {m: started(parsed(work), m) for m in given.workers}
        facts[work] = {
            "model": asdict(model),
            "start": start,
            "rounds": [
                {"clients": clients, "workers": workers} | used._asdict()
                for (clients, workers), own in rounds.items()
                for used in own
            ],
        }
        if given.json:
            given.json.write_text(json.dumps(facts, indent=1))
        _show(console, work, model, start, medians, fit_to)


def _round(work: str, clients: int, workers: int, seconds: float) -> Used:
    """What the rounds of a run in a process of its own use: means, and the median duration."""
    more = ["--workers", str(workers), "--cpu"]
    found = measured("ours", f"{work}:{clients}", seconds, more=more)
    if not found.seconds:
        raise SystemExit(f"{work}, {clients} clients, {workers} workers: {found.note}")
    [(main, others)] = found.looks
    return Used(main, others if workers > 1 else 0.0, statistics.median(found.seconds))


def started(work: Work, workers: int) -> float:
    """Seconds until so many workers are ready; 0 where the main process computes alone."""
    from benchmarks.engines.ours import assembly
    from fedadapt.simulations.engines.select import engine_for

    made = assembly(replace(work, clients=max(work.clients, workers)), workers=workers)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        with engine_for(made, Path(folder)) as client_pool:
            client_pool.ready()
            return time.perf_counter() - began


def _show(
    console: Console,
    work: str,
    model: Model,
    start: Mapping[int, float],
    medians: Mapping[Point, Used],
    fit_to: Sequence[int],
) -> None:
    parts = (("fixed", model.fixed), ("a client", model.client), ("its message", model.message))
    numbers = ", ".join(f"{name} {1000 * seconds:.3g} ms" for name, seconds in parts)
    began = ", ".join(f"{seconds:.2f} s for {count}" for count, seconds in start.items())
    console.print(f"[bold]{work}[/bold]: {numbers}; workers start in {began}")
    columns = ("predicted, s", "by processor time, s", "off by", "lasted, s", "")
    table = Table("clients", "workers", *columns)
    for (clients, workers), used in medians.items():
        told, path = model(clients, workers), used.path(workers)
        cells = (f"{told:.3g}", f"{path:.3g}", f"{told / path - 1:+.0%}", f"{used.seconds:.3g}")
        note = "fitted" if clients in fit_to else "held out"
        table.add_row(f"{clients:,}", str(workers), *cells, note)
    for clients, workers in [point for point in PREDICTED if point not in medians]:
        told = model(clients, workers)
        table.add_row(f"{clients:,}", str(workers), f"{told:.3g}", "", "", "", "not measured")
    console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", nargs="+", default=["W1", "W3"], choices=list(SIZES))
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, CORES}))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a measurement, at least")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    return parser


if __name__ == "__main__":
    main()
