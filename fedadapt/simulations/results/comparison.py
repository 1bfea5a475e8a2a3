"""A comparison of runs: a row for each strategy and label, with mean and spread over seeds."""

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.parameters import Scalar
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
CPU = Column(
    "client_seconds",
    "CPU s on clients",
    lambda s, label: None if label == LOCAL else s.get("client_seconds"),
    1,
    1,
    None,
)
BY_CLASS = {
    "balanced-accuracy": Column(
        "balanced_accuracy", "balanced %", _accuracy("balanced_accuracy", "by_class"), 2, 100, max
    ),
    "f1": Column("f1", "F1 %", _accuracy("f1", "by_class"), 2, 100, max),
    "auc": Column("auc", "AUC %", _accuracy("auc", "by_class"), 2, 100, max),
}
"""Metrics in which every class counts once: columns where they are asked for."""

COMPARED = (MEAN, WORST, GAIN, WORSE, OVER_LOCAL, UNSEEN, GLOBAL, CLIENTS, MB_UP, MB_DOWN)
NOBODY = "no federation"  # in place of a strategy
OPTIONAL = (OVER_LOCAL, UNSEEN, GLOBAL, CPU)  # left out where no run has them
IN_A_SUMMARY = ("benchmark", "model", "batch-norm", "clients", "rounds", "adapt-args")
"""Settings that have an entry of their own in a summary."""

RECORDING = frozenset({"evaluate-every", "curves", "serve", "confidence", "local", "global-test"})
"""Settings of what is written down; what is computed does not depend on them."""

ELSEWHERE = RECORDING | {"strategy", "strategy-args", "seed", "adapt"}
"""Settings in which runs may differ without a column of the setting's own."""

OF_THE_DATA = frozenset(
    {
        *("partition", "shift", "quantity", "imbalance", "clients", "unseen", "split"),
        *("adapt-share", "test-share", "examples", "image-size"),
    }
)
"""Settings that change who has which images."""


class Cell(NamedTuple):
    """Mean and spread of a number over seeds, in the units of the summaries."""

    mean: float | None  # None: no run has this number
    spread: float | None  # sample standard deviation (divided by n - 1); None below two seeds
    best: bool = False  # the best of its column


class Line(NamedTuple):
    """A row of the comparison."""

    strategy: str  # with its arguments where runs differ in them
    label: str
    settings: tuple[str, ...]  # one for each of the table's
    runs: tuple[int, ...]  # the places of its runs, a seed each, among the summaries
    cells: tuple[Cell, ...]  # one a column

    @property
    def num_seeds(self) -> int:
        return len(self.runs)


@dataclass(frozen=True)
class Table:
    """A table of strategies x labels; ``simulations.results.table_formats`` renders it."""

    title: str
    settings: tuple[str, ...]  # in which rows differ, in kebab-case
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]  # what a reader must know before believing the numbers

    def only(self, columns: Sequence[Column]) -> "Table":
        """Return the table with these of its columns, in this order."""
        place_of = {column.key: i for i, column in enumerate(self.columns)}
        places = [place_of[column.key] for column in columns if column.key in place_of]
        lines = (n._replace(cells=tuple(n.cells[i] for i in places)) for n in self.lines)
        return replace(self, columns=tuple(self.columns[i] for i in places), lines=tuple(lines))

    def with_column(self, column: Column, cells: Sequence[Cell]) -> "Table":
        """Return the table with another column, a cell for each line, the best of them marked."""
        best = _best(column, cells)
        lines = (
            line._replace(cells=(*line.cells, cell._replace(best=_is_best(cell, column, best))))
            for line, cell in zip(self.lines, cells, strict=True)
        )
        return replace(self, columns=(*self.columns, column), lines=tuple(lines))


Row = tuple[str, tuple[str, ...]]  # the name of a strategy, and settings


def comparison(summaries: Sequence[Summary], columns: Sequence[Column] = COMPARED) -> Table:
    """Compare runs: rows are in the order of the runs given, and labels in their own order.

    Runs that differ in nothing but the seed are one row. Settings in which runs differ are columns.
    Training alone does not depend on the strategy: where all runs of the same settings agree on it,
    it is one row, before all others. ``notes`` say where runs with the same seed were not made on
    the same clients (their manifests differ), and where rows have different seeds.

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
    settings = differing([settings_of(summary) for summary in summaries])
    defaults = RunConfig().to_mapping()
    runs: dict[Row, dict[int, int]] = defaultdict(dict)  # row -> seed -> place of the summary
    for place, summary in enumerate(summaries):
        values = settings_of(summary)
        row = (
            _name(summary, summaries),
            tuple(_word(values.get(key, defaults[key])) for key in settings),
        )
        seed = summary["seed"]
        if seed in runs[row]:
            raise InputError(
                f"compare: two runs of {' '.join(_described(row, settings))} with seed {seed}; "
                "give one of them"
            )
        runs[row][seed] = place
    columns = tuple(c for c in columns if _needed(c, summaries))
    alone = _alone(runs, summaries) if len(runs) > 1 else {}
    lines = [
        _line((NOBODY, values), LOCAL, places, tuple(alone_in.values()), columns)
        for values, (places, alone_in) in alone.items()
    ]
    for row, seeds in runs.items():
        places = tuple(place for _, place in sorted(seeds.items()))
        given = [summaries[place] for place in places]
        lines += [
            _line(row, label, places, given, columns)
            for label in dict.fromkeys(label for s in given for label in s["accuracy"])
            if label != LOCAL or row[1] not in alone
        ]
    best = [_best(c, [line.cells[i] for line in lines]) for i, c in enumerate(columns)]
    lines = [
        line._replace(
            cells=tuple(
                cell._replace(best=_is_best(cell, column, top))
                for cell, column, top in zip(line.cells, columns, best, strict=True)
            )
        )
        for line in lines
    ]
    notes = tuple(_notes(runs, summaries, settings))
    return Table(_title(summaries), settings, columns, tuple(lines), notes)


def settings_of(summary: Summary) -> dict[str, Scalar]:
    """Return the settings that tell a run apart, without those that have a place of their own."""
    known = {
        key: summary[_underscored(key)] for key in IN_A_SUMMARY if _underscored(key) in summary
    }
    given = known | summary.get("settings", {})
    return {key: value for key, value in given.items() if key not in ELSEWHERE}


def differing(runs: Sequence[Mapping[str, Scalar]]) -> tuple[str, ...]:
    """Return the settings that are not the same in all runs; one left out has its default."""
    order = RunConfig.keys()
    keys = sorted({key for settings in runs for key in settings}, key=order.index)
    defaults = RunConfig().to_mapping()
    return tuple(
        key for key in keys if len({settings.get(key, defaults[key]) for settings in runs}) > 1
    )


def _underscored(key: str) -> str:
    return key.replace("-", "_")


def shown(cell: Cell, column: Column) -> str:
    """Return the mean as the table prints it; it is empty where there is none."""
    if cell.mean is None:
        return ""
    value = round(cell.mean * column.scale, column.digits) + 0.0  # no -0.00
    return f"{value:.{column.digits}f}"


def shown_spread(cell: Cell, column: Column) -> str:
    """Return the spread as the table prints it; it is empty where there is none."""
    return "" if cell.spread is None else f"{cell.spread * column.scale:.{column.digits}f}"


def _is_best(cell: Cell, column: Column, best: str | None) -> bool:
    return best is not None and shown(cell, column) == best


def _check(summary: Summary) -> None:
    needed = ("benchmark", "manifest", "strategy", "model", "seed", "rounds", "accuracy")
    for key in (*needed, "global_test", "bytes_up", "bytes_down"):
        if key not in summary:
            raise InputError(f"compare: a summary has no {key!r}; expected a run's summary.json")


def _name(summary: Summary, all_: Sequence[Summary]) -> str:
    """Return the strategy, with its arguments where runs differ in them."""
    name, arguments = summary["strategy"], summary.get("strategy_args", "")
    differ = {s.get("strategy_args", "") for s in all_}
    return f"{name} ({arguments})" if arguments and len(differ) > 1 else name


def _word(value: Scalar) -> str:
    """Return a setting as it is written; one that is empty is what the run decides itself."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _described(row: Row, settings: Sequence[str]) -> list[str]:
    name, values = row
    return [name, *(f"{key}={value}" for key, value in zip(settings, values, strict=True))]


def _line(
    row: Row,
    label: str,
    places: tuple[int, ...],
    summaries: Sequence[Summary],
    columns: Sequence[Column],
) -> Line:
    name, values = row
    cells = tuple(_cell(column, label, summaries) for column in columns)
    return Line(name, label, values, places, cells)


def _alone(
    runs: Mapping[Row, Mapping[int, int]], summaries: Sequence[Summary]
) -> dict[tuple[str, ...], tuple[tuple[int, ...], dict[int, Summary]]]:
    """Return a summary of training alone for each seed, by the values of the settings.

    Beside them are the places of the runs that they are of. Settings in which runs do not agree on
    training alone are left out.
    """
    found: dict[tuple[str, ...], dict[int, int]] = {}
    refused = set()
    for (_, values), seeds in runs.items():
        for seed, place in seeds.items():
            if LOCAL not in summaries[place]["accuracy"]:
                continue
            known = found.setdefault(values, {}).setdefault(seed, place)
            if not _agree(summaries[known], summaries[place]):
                refused.add(values)
    return {
        values: (
            tuple(place for _, place in sorted(seeds.items())),
            {seed: _only_local(summaries[place]) for seed, place in sorted(seeds.items())},
        )
        for values, seeds in found.items()
        if values not in refused
    }


def _agree(one: Summary, other: Summary) -> bool:
    compared = ("over_local", "mean", "std", "worst10", "min", "num_clients")
    of_one, of_other = (s["accuracy"][LOCAL] for s in (one, other))
    same = all(of_one.get(key) == of_other.get(key) for key in compared)
    return same and one["manifest"] == other["manifest"]


def _only_local(summary: Summary) -> Summary:
    """Return a summary of training alone.

    What it is over the base differs from strategy to strategy, so it is not in the one row.
    """
    left_out = ("gain", "share_worse")
    numbers = {k: v for k, v in summary["accuracy"][LOCAL].items() if k not in left_out}
    return {**summary, "accuracy": {LOCAL: numbers}}


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


def _cell(column: Column, label: str, summaries: Sequence[Summary]) -> Cell:
    per_seed = [column.value(s, label) for s in summaries if label in s["accuracy"]]
    return cell_of([value for value in per_seed if value is not None])


def cell_of(values: Sequence[float]) -> Cell:
    """Return the mean and the spread of a number over seeds."""
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


def _notes(
    runs: Mapping[Row, Mapping[int, int]], summaries: Sequence[Summary], settings: Sequence[str]
) -> list[str]:
    notes = []
    manifests: dict[tuple[str, ...], dict[str, None]] = defaultdict(dict)
    for (_, values), seeds in runs.items():
        data = [f"{k} {v}" for k, v in zip(settings, values, strict=True) if k in OF_THE_DATA]
        for seed, place in seeds.items():
            benchmark, manifest = summaries[place]["benchmark"], summaries[place]["manifest"]
            manifests[(benchmark, *data, f"seed {seed}")][manifest] = None
    for words, hashes in manifests.items():
        if len(hashes) > 1:
            names = ", ".join(manifest[:12] for manifest in hashes)
            notes.append(
                f"NOT the same clients: runs on {', '.join(words)} have different "
                f"manifests ({names}); their rows cannot be compared"
            )
    if len({frozenset(seeds) for seeds in runs.values()}) > 1:
        rows = "; ".join(
            f"{' '.join(_described(row, settings))}: {_listed(set(seeds))}"
            for row, seeds in runs.items()
        )
        notes.append(f"Rows rest on different seeds ({rows})")
    return notes


def _listed(seeds: set[int]) -> str:
    return ", ".join(str(seed) for seed in sorted(seeds))
