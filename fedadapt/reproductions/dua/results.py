"""Collect accuracy, forgetting and matrix of each row of a table from the runs' summaries."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedadapt.errors import InputError
from fedadapt.reproductions.dua.plan import Experiment, Row, Run
from fedadapt.reproductions.dua.published import Key, Score
from fedadapt.strategies.registry import find

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """A row over R runs, each a seed and a draw; means over users and tasks, in [0, 1]."""

    accuracy: Array  # [R]
    forgetting: Array  # over the T - 1 tasks that can be forgotten: [R]
    forgetting_over_all: Array  # over all T, as published: [R]
    matrix: Array  # [R, T, T], rows are times, NaN above the diagonal

    @property
    def by_task(self) -> Array:
        """Accuracies after the last task, [R, T]."""
        return self.matrix[:, -1]

    def score(self, row: Row, runs: slice = slice(None)) -> Score:
        """Return the mean over some of the runs, in the paper's units."""
        forgotten = 100 * float(self.forgetting_over_all[runs].mean())
        accuracy = 100 * float(self.accuracy[runs].mean())
        return Score(accuracy, forgotten if can_forget(row) else None)


@dataclass(frozen=True, eq=False)
class Results:
    """The measured results of a table."""

    rows: tuple[Row, ...]
    measured: tuple[Measured, ...]  # one a row
    runs: tuple[tuple[int, int], ...]  # (seed, draw), in the order of the arrays
    domains: tuple[str, ...]  # of the images, where a benchmark has several

    def scores(self, run: int | None = None) -> dict[Key, Score]:
        """Return the means over all runs, or the results of one."""
        runs = slice(None) if run is None else slice(run, run + 1)
        pairs = zip(self.rows, self.measured, strict=True)
        return {row.key: measured.score(row, runs) for row, measured in pairs}


def can_forget(row: Row) -> bool:
    """Whether a method can forget: not with an expert for each task, nor with joint training."""
    cls = find(row.strategy)
    return not cls.separate and cls.method != "joint"


def collect(
    experiment: Experiment, runs: Iterable[tuple[Run, Mapping[str, Any]]], folder: Path
) -> Results:
    """Return the results of finished runs from their summaries.

    Raises:
        InputError: a summary lacks what a row is made of.

    """
    summaries = {(run.strategy, run.seed, run.draw): summary for run, summary in runs}
    order = tuple(dict.fromkeys((seed, draw) for _, seed, draw in summaries))
    rows = experiment.rows
    measured = tuple(
        _measured(row, [summaries[row.strategy, *which] for which in order]) for row in rows
    )
    first = experiment.run(rows[0].strategy, *order[0], folder).config.out
    return Results(rows, measured, order, _domains(Path(first)))


def _measured(row: Row, summaries: Sequence[Mapping[str, Any]]) -> Measured:
    try:
        metadata = [summary["tasks"][row.label] for summary in summaries]
        return Measured(
            *(
                np.array([fact[name] for fact in metadata], dtype=np.float64)
                for name in ("accuracy", "forgetting", "forgetting_over_all", "matrix")
            )
        )
    except (KeyError, ValueError, TypeError):
        raise InputError(
            f"summary of {row.strategy}: nothing of {row.label} over the tasks; remove its run "
            "folder to run it again"
        ) from None


def _domains(run: Path) -> tuple[str, ...]:
    try:
        metadata = json.loads((run / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{run / 'manifest.json'}: {error}; a finished run has one") from None
    return tuple(metadata.get("domains", ()))
