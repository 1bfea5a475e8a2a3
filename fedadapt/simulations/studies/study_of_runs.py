"""Finished runs as a study: the rows of their table, with curves, costs, gains and links."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote

import numpy as np

from fedadapt.config import parse_arguments
from fedadapt.records import Evaluation
from fedadapt.simulations.report.study.page import REPORT
from fedadapt.simulations.report.study.study import Curve, Entry, Link, Shown, Study
from fedadapt.simulations.results.accuracies import Accuracies, last_accuracies
from fedadapt.simulations.results.comparison import (
    CPU,
    MB_DOWN,
    MB_UP,
    OF_THE_DATA,
    Line,
    Summary,
    Table,
)
from fedadapt.simulations.results.paired import (
    ALONE,
    STRATEGY_LOCAL,
    by_client,
    difference,
    over_seeds,
    pairs,
    reference_of,
)
from fedadapt.simulations.results.parquet import table_rows
from fedadapt.simulations.results.table_formats import plus_minus
from fedadapt.simulations.studies.made_runs import MadeRun

REFERENCE = "training alone"


def study_of_runs(table: Table, runs: Sequence[MadeRun], folder: Path) -> Study:
    """Return the study of a comparison.

    Args:
        table: See ``studies.table.table_of``.
        runs: The runs that it is of, in the same order.
        folder: Where the page will be; links to the runs' own pages begin there.

    """
    summaries = [run.summary for run in runs]

    @cache
    def accuracies(place: int) -> Accuracies:
        return last_accuracies(table_rows(runs[place].folder, Evaluation))

    @cache
    def curves(place: int) -> Mapping[str, Curve]:
        return _curves(runs[place])

    populations = _populations(table, summaries)
    names = list(dict.fromkeys(populations))
    has_strategy = any(s["strategy"] == STRATEGY_LOCAL.strategy for s in summaries)
    reference = STRATEGY_LOCAL if has_strategy else ALONE
    points, series, axes = _points(table, summaries)
    entries = []
    for line, population, point, of_series in zip(
        table.lines, populations, points, series, strict=True
    ):
        other = reference_of(line, table, summaries, reference)
        gains = []
        if other is not None and other is not line:
            gains = [
                difference(accuracies(place), line.label, accuracies(beside), other.label)
                for place, beside in pairs(line, other, summaries)
            ]
        cells = dict(zip(table.columns, line.cells, strict=True))
        traffic = [cells[column].mean for column in (MB_UP, MB_DOWN) if column in cells]
        known = [column for column in traffic if column is not None]
        seconds = cells[CPU].mean if CPU in cells else None
        means = [summaries[place]["accuracy"].get(line.label, {}) for place in line.runs]
        entries.append(
            Entry(
                name=line.strategy,
                label=line.label,
                settings=line.settings,
                population=names.index(population),
                cells=tuple(
                    Shown(plus_minus(cell, column, "± "), cell.mean, cell.best)
                    for column, cell in cells.items()
                ),
                by_seed=tuple(m["mean"] for m in means if m.get("mean") is not None),
                megabytes=sum(known) * MB_UP.scale if known else None,
                seconds=seconds,
                accuracy=over_seeds([by_client(accuracies(p), line.label) for p in line.runs]),
                gain=over_seeds(gains),
                curves=tuple(
                    curves(place)[line.label] for place in line.runs if line.label in curves(place)
                ),
                series=of_series,
                point=point,
                links=_links(line, runs, folder),
            )
        )
    return Study(
        what="Sweep" if axes else "Comparison",
        title=table.title,
        line=_line(summaries),
        notes=table.notes,
        settings=table.settings,
        columns=tuple(column.title for column in table.columns),
        entries=tuple(entries),
        populations=tuple(names),
        comparable=tuple(_same_clients(name, populations, table, summaries) for name in names),
        reference=REFERENCE,
        axes=axes,
    )


def _line(summaries: Sequence[Summary]) -> str:
    clients = {s["clients"] for s in summaries if s.get("clients")}
    parts = [f"{len(summaries)} runs"]
    if len(clients) == 1:
        parts.append(f"{clients.pop()} clients")
    rounds = {s["rounds"] for s in summaries}
    if len(rounds) == 1:
        parts.append(f"{rounds.pop()} rounds")
    return " · ".join(parts)


def _populations(table: Table, summaries: Sequence[Summary]) -> list[str]:
    """Return for each row whose clients it is of: the settings of the data that differ."""
    of_data = [
        (place, key)
        for place, key in enumerate(table.settings)
        if key in OF_THE_DATA or key == "benchmark"
    ]
    return [
        ", ".join(f"{key} {line.settings[place]}" for place, key in of_data) for line in table.lines
    ]


def _same_clients(
    name: str, populations: Sequence[str], table: Table, summaries: Sequence[Summary]
) -> bool:
    """Whether all rows of a population have the same seeds, and their runs the same clients."""
    members = [line for line, of in zip(table.lines, populations, strict=True) if of == name]
    return len({
        frozenset((summaries[p]["seed"], summaries[p]["manifest"]) for p in line.runs)
        for line in members
    }) == 1  # fmt: skip


def _points(
    table: Table, summaries: Sequence[Summary]
) -> tuple[list[dict[str, float | str]], list[str], tuple[str, ...]]:
    """Return each row's place on the axes of a sweep, what is the same along them, and the axes.

    Axes are the settings in which rows differ, and arguments in which runs of one strategy do.
    """
    of_line = [summaries[line.runs[0]] for line in table.lines]
    arguments = [parse_arguments(s.get("strategy_args", ""), "strategy-args") for s in of_line]
    values: dict[tuple[str, str], set[str]] = {}
    for summary, given in zip(of_line, arguments, strict=True):
        for name, value in given.items():
            values.setdefault((summary["strategy"], name), set()).add(str(value))
    swept = {key for key, different in values.items() if len(different) > 1}
    points: list[dict[str, float | str]] = []
    series = []
    for line, summary, given in zip(table.lines, of_line, arguments, strict=True):
        strategy = summary["strategy"]
        point = dict(zip(table.settings, map(_number, line.settings), strict=True))
        rest = []
        for name, value in given.items():
            if (strategy, name) in swept:
                point[f"{strategy}.{name}"] = _number(str(value))
            else:
                rest.append(f"{name}={value}")
        points.append(point)
        # The row of training alone is not of one strategy.
        name = strategy if line.strategy.split(" ")[0] == strategy else line.strategy
        series.append(" ".join([name, *rest]) if name == strategy else name)
    axes = (*table.settings, *sorted(f"{strategy}.{name}" for strategy, name in swept))
    return points, series, axes


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _curves(run: MadeRun) -> dict[str, Curve]:
    """Return the mean over clients of the training, by round, of labels with several rounds."""
    totals: dict[str, dict[int, list[float]]] = {}
    for row in table_rows(run.folder, Evaluation):
        if row.split == "test" and row.seen and not row.epoch and row.client >= 0:
            totals.setdefault(row.label, {}).setdefault(row.round, []).append(row.accuracy)
    return {
        label: Curve(
            str(run.summary["seed"]),
            tuple(sorted(by_round)),
            tuple(float(np.mean(by_round[number])) for number in sorted(by_round)),
        )
        for label, by_round in totals.items()
        if len(by_round) > 1
    }


def _links(line: Line, runs: Sequence[MadeRun], folder: Path) -> tuple[Link, ...]:
    pages = [(runs[place].summary["seed"], runs[place].folder / REPORT) for place in line.runs]
    return tuple(Link(str(seed), address(page, folder)) for seed, page in pages if page.is_file())


def address(page: Path, folder: Path) -> str:
    """Return the address of a page from another folder's."""
    return quote(os.path.relpath(page.resolve(), folder.resolve()))
