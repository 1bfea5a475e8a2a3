"""A comparison of runs: a row for each strategy and label, with mean and spread over seeds."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fedadapt.errors import InputError
from fedadapt.records import LOCAL

Summary = dict[str, Any]  # a ``summary.json``


class Column(NamedTuple):
    """A number of the comparison: its key in files, its title, and how a summary gives it."""

    key: str
    title: str
    value: Callable[[Summary, str], float | None]  # (summary, label); accuracies in [0, 1]
    digits: int
    scale: float  # from a summary's unit to the table's: 100 turns shares into percent
    best: Callable[[list[float]], float] | None  # which value is set in bold


def _accuracy(key: str, group: str = "accuracy") -> Callable[[Summary, str], float | None]:
    return lambda summary, label: summary.get(group, {}).get(label, {}).get(key)


def _travelled(key: str) -> Callable[[Summary, str], float | None]:
    """Return a column's value: the bytes of training of all clients, or 0 for training alone."""
    return lambda summary, label: 0 if label == LOCAL else summary[key]


MEAN = Column("mean", "mean %", _accuracy("mean"), 2, 100, max)
STD = Column("std", "std %", _accuracy("std"), 2, 100, None)
WORST = Column("worst10", "worst 10 %", _accuracy("worst10"), 2, 100, max)
MIN = Column("min", "min %", _accuracy("min"), 2, 100, max)
GAIN = Column("gain", "gain, points", _accuracy("gain"), 2, 100, max)
WORSE = Column("share_worse", "worse off %", _accuracy("share_worse"), 1, 100, None)
UNSEEN = Column("unseen", "unseen mean %", _accuracy("mean", "accuracy_unseen"), 2, 100, max)
GLOBAL = Column(
    "global_test", "global test %", lambda s, label: s["global_test"].get(label), 2, 100, max
)
OVER_LOCAL = Column("over_local", "over local, points", _accuracy("over_local"), 2, 100, max)
BELOW_LOCAL = Column(
    "share_below_local", "worse than local %", _accuracy("share_below_local"), 1, 100, None
)
CLIENTS = Column("num_clients", "clients", _accuracy("num_clients"), 0, 1, None)
MB_UP = Column("mb_up", "MB up", _travelled("bytes_up"), 1, 1e-6, None)
MB_DOWN = Column("mb_down", "MB down", _travelled("bytes_down"), 1, 1e-6, None)
COMPARED = (MEAN, WORST, GAIN, WORSE, OVER_LOCAL, UNSEEN, GLOBAL, CLIENTS, MB_UP, MB_DOWN)
NOBODY = "no federation"  # in place of a strategy
OPTIONAL = (OVER_LOCAL, UNSEEN, GLOBAL)  # left out where no run has them


class Cell(NamedTuple):
    """Mean and spread of a number over seeds, in the units of the summaries."""

    mean: float | None  # None: no run has this number
    spread: float | None  # sample standard deviation (divided by n - 1); None below two seeds
    best: bool = False  # the best of its column


class Line(NamedTuple):
    """A row of the comparison."""

    strategy: str  # with benchmark, model and arguments where runs differ in them
    label: str
    num_seeds: int
    cells: tuple[Cell, ...]  # one a column


@dataclass(frozen=True)
class Table:
    """A table of strategies x labels; ``simulations.results.table_formats`` renders it."""

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]  # what a reader must know before believing the numbers


def comparison(summaries: Sequence[Summary], columns: Sequence[Column] = COMPARED) -> Table:
    """Compare runs: rows are in the order of the runs given, and labels in their own order.

    Runs that differ in nothing but the seed are one row. Training alone does not depend on the
    strategy: where all runs agree on it, it is one row, the first. ``notes`` say where runs with
    the same seed were not made on the same clients (their manifests differ), where rows have
    different seeds, and where runs differ in rounds or batch-norm policy.

    Args:
        summaries: Contents of ``summary.json``, one for each run.
        columns: The numbers to compare; optional ones without any value are left out.

    Raises:
        InputError: No summaries, one that is incomplete, or two of the same row and seed.

    """
    if not summaries:
        raise InputError("compare: no runs; give at least one finished run")
    for summary in summaries:
        _check(summary)
    runs: dict[str, dict[int, Summary]] = defaultdict(dict)
    for summary in summaries:
        name, seed = _name(summary, summaries), summary["seed"]
        if seed in runs[name]:
            raise InputError(f"compare: two runs of {name} with seed {seed}; give one of them")
        runs[name][seed] = summary
    columns = tuple(c for c in columns if _needed(c, summaries))
    alone = _alone(summaries) if len(runs) > 1 else {}
    named = {NOBODY: alone, **runs} if alone else runs
    lines = [
        Line(name, label, len(seeds), tuple(_cell(c, label, seeds) for c in columns))
        for name, seeds in named.items()
        for label in dict.fromkeys(label for s in seeds.values() for label in s["accuracy"])
        if not alone or label != LOCAL or name == NOBODY
    ]
    best = [_best(c, [line.cells[i] for line in lines]) for i, c in enumerate(columns)]
    lines = [
        line._replace(
            cells=tuple(
                cell._replace(best=shown(cell, column) == top)
                for cell, column, top in zip(line.cells, columns, best, strict=True)
            )
        )
        for line in lines
    ]
    return Table(_title(summaries), columns, tuple(lines), tuple(_notes(runs)))


def shown(cell: Cell, column: Column) -> str:
    """Return the mean as the table prints it; it is empty where there is none."""
    return "" if cell.mean is None else f"{cell.mean * column.scale:.{column.digits}f}"


def shown_spread(cell: Cell, column: Column) -> str:
    """Return the spread as the table prints it; it is empty where there is none."""
    return "" if cell.spread is None else f"{cell.spread * column.scale:.{column.digits}f}"


def _check(summary: Summary) -> None:
    needed = ("benchmark", "manifest", "strategy", "model", "seed", "rounds", "accuracy")
    for key in (*needed, "global_test", "bytes_up", "bytes_down"):
        if key not in summary:
            raise InputError(f"compare: a summary has no {key!r}; expected a run's summary.json")


def _name(summary: Summary, all_: Sequence[Summary]) -> str:
    """Return the strategy and the settings that distinguish its runs from the others."""
    words = [summary["strategy"]]
    for key in ("strategy_args", "adapt_args", "benchmark", "model"):
        if len({s.get(key, "") for s in all_}) > 1 and summary.get(key):
            words.append(f"({summary[key]})" if key.endswith("args") else summary[key])
    return " ".join(words)


def _alone(summaries: Sequence[Summary]) -> dict[int, Summary]:
    """Return a summary of training alone for each seed; {} where the runs do not agree on it."""
    by_seed: dict[int, Summary] = {}
    for summary in summaries:
        if LOCAL not in summary["accuracy"]:
            continue
        known = by_seed.setdefault(summary["seed"], summary)
        compared = ("over_local", "mean", "std", "worst10", "min", "num_clients")
        current, earlier = (s["accuracy"][LOCAL] for s in (summary, known))
        if known["manifest"] != summary["manifest"] or any(
            current.get(key) != earlier.get(key) for key in compared
        ):
            return {}
    # What it is over the base differs from strategy to strategy, so it is not in the one row.
    left_out = ("gain", "share_worse")
    rows = {
        seed: {key: value for key, value in s["accuracy"][LOCAL].items() if key not in left_out}
        for seed, s in by_seed.items()
    }
    return {seed: {**s, "accuracy": {LOCAL: rows[seed]}} for seed, s in by_seed.items()}


def _needed(column: Column, summaries: Sequence[Summary]) -> bool:
    """Return whether the table needs a column.

    The number of clients is needed only where rows are means over different numbers of clients.
    """
    if column is CLIENTS:
        counts = (f.get("num_clients") for s in summaries for f in s["accuracy"].values())
        return len(set(counts)) > 1
    return column not in OPTIONAL or _present(column, summaries)


def _present(column: Column, summaries: Sequence[Summary]) -> bool:
    return any(column.value(s, label) is not None for s in summaries for label in s["accuracy"])


def _cell(column: Column, label: str, seeds: dict[int, Summary]) -> Cell:
    per_seed = [column.value(s, label) for _, s in sorted(seeds.items()) if label in s["accuracy"]]
    values = [value for value in per_seed if value is not None]
    return Cell(
        math.fsum(values) / len(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None,
    )


def _best(column: Column, cells: Sequence[Cell]) -> str | None:
    """Return the best mean as the table prints it, so that equal numbers are both the best.

    None for a column without a best value, for fewer than two rows, and where no row has a value.
    """
    values = [cell.mean for cell in cells if cell.mean is not None]
    if column.best is None or len(cells) < 2 or not values:
        return None
    return shown(Cell(column.best(values), None), column)


def _title(summaries: Sequence[Summary]) -> str:
    """Return a title from what all runs have in common."""
    words = [
        f"{key} {summaries[0][key]}"
        for key in ("benchmark", "model")
        if len({s[key] for s in summaries}) == 1
    ]
    seeds = {s["seed"] for s in summaries}
    return ", ".join([*words, f"seed{'s' if len(seeds) > 1 else ''} {_listed(seeds)}"])


def _notes(runs: dict[str, dict[int, Summary]]) -> list[str]:
    notes = []
    summaries = [s for seeds in runs.values() for s in seeds.values()]
    manifests: dict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for s in summaries:
        manifests[s["benchmark"], s["seed"]][s["manifest"]] = None
    for (benchmark, seed), hashes in manifests.items():
        if len(hashes) > 1:
            names = ", ".join(manifest[:12] for manifest in hashes)
            notes.append(
                f"NOT the same clients: runs on {benchmark} with seed {seed} have different "
                f"manifests ({names}); their rows cannot be compared"
            )
    if len({frozenset(seeds) for seeds in runs.values()}) > 1:
        rows = "; ".join(f"{name}: {_listed(set(seeds))}" for name, seeds in runs.items())
        notes.append(f"Rows rest on different seeds ({rows})")
    for key, title in (("rounds", "rounds"), ("batch_norm", "batch-norm policy")):
        values = dict.fromkeys(str(s.get(key, "")) for s in summaries)
        if len(values) > 1:
            notes.append(f"Runs differ in {title}: {', '.join(values)}")
    return notes


def _listed(seeds: set[int]) -> str:
    return ", ".join(str(seed) for seed in sorted(seeds))
