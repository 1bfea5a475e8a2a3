"""The page of a reproduction of DUA: its methods over the tasks, measured and published."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedadapt.reproductions.dua.plan import Experiment, Row
from fedadapt.reproductions.dua.results import Measured, Results, can_forget
from fedadapt.reproductions.dua.tables import spread
from fedadapt.reproductions.table import Grid
from fedadapt.simulations.report.study import study as shown
from fedadapt.simulations.report.study.page import REPORT
from fedadapt.simulations.report.study.study import Curve, Entry, Link, Shown, Study
from fedadapt.simulations.studies.study_of_runs import address


def study(experiment: Experiment, results: Results, grids: Sequence[Grid], folder: Path) -> Study:
    """Return the study of a table; curves are means over the tasks that are learnt so far."""
    tasks = len(experiment.tasks)
    best = max(float(measured.accuracy.mean()) for measured in results.measured)
    return Study(
        what="Reproduction",
        title=f"{experiment.name}, {experiment.base.model}, table {experiment.table}",
        line=f"{len(results.runs)} runs of each method · {tasks} tasks · preset "
        f"{experiment.preset}",
        notes=(),
        settings=(),
        columns=("accuracy, %", "published, %", f"forgetting over {tasks}, points"),
        entries=tuple(
            _entry(experiment, results, row, measured, folder, best=best)
            for row, measured in zip(results.rows, results.measured, strict=True)
        ),
        step="task",
        grids=tuple(shown.Grid(*grid) for grid in grids),
    )


def _entry(
    experiment: Experiment,
    results: Results,
    row: Row,
    measured: Measured,
    folder: Path,
    *,
    best: float,
) -> Entry:
    mean = float(measured.accuracy.mean())
    published = experiment.published.get(row.key)
    said = None if published is None else published.accuracy / 100
    forgotten = float(measured.forgetting_over_all.mean())
    matrix = measured.matrix.mean(0)
    return Entry(
        name=row.method,
        label=f"{row.strategy}: {row.label}",
        cells=(
            Shown(spread(measured.accuracy), mean, mean >= best - 1e-9),
            Shown("-") if said is None else Shown(f"{100 * said:.2f}", said),
            Shown(spread(measured.forgetting_over_all), forgotten)
            if can_forget(row)
            else Shown("-"),
        ),
        by_seed=tuple(measured.accuracy.tolist()),
        published=said,
        curves=tuple(
            Curve(
                f"{seed}, draw {draw}",
                tuple(range(1, len(of_run) + 1)),
                # What was not measured is above the diagonal: tasks that are not learnt yet.
                tuple(float(np.nanmean(after)) for after in of_run),
            )
            for (seed, draw), of_run in zip(results.runs, measured.matrix, strict=True)
        ),
        matrix=tuple(
            tuple(None if np.isnan(value) else float(value) for value in after) for after in matrix
        ),
        forgetting=forgotten if can_forget(row) else None,
        links=tuple(_links(experiment, results, row, folder)),
    )


def _links(experiment: Experiment, results: Results, row: Row, folder: Path) -> list[Link]:
    links = []
    for seed, draw in results.runs:
        page = Path(experiment.run(row.strategy, seed, draw, folder).config.out) / REPORT
        if page.is_file():
            links.append(Link(f"{seed}/{draw}", address(page, folder)))
    return links
