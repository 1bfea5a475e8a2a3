"""Draw a table: the accuracy of every method, and of one method after each task."""

from pathlib import Path

import numpy as np

from fedadapt.reproductions.dua.plan import Experiment, Row
from fedadapt.reproductions.dua.published import ADAPTATIONS
from fedadapt.reproductions.dua.results import Measured, Results
from fedadapt.simulations.report.style import (
    COLOURS,
    INK,
    new_figure,
    save_png,
    styled,
    title,
)
from fedadapt.simulations.report.task_figure import draw_task_matrix

COLOUR = dict(zip(ADAPTATIONS, COLOURS, strict=False))


@styled
def draw(experiment: Experiment, results: Results, path: Path) -> Path:
    """Draw two panels into one PNG; the matrix is that of the table's first row."""
    methods = list(dict.fromkeys(row.method for row in results.rows))
    figure = new_figure(12, 1.6 + 0.5 * max(4, len(methods)))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _accuracies(left, experiment, results, methods)
    _matrix(right, experiment, results.rows[0], results.measured[0])
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=4)
    return save_png(figure, path)


def _accuracies(axes, experiment: Experiment, results: Results, methods: list[str]) -> None:  # type: ignore[no-untyped-def]
    """Draw a line for each method: the mean in colour, runs as dots, published as a diamond."""
    named: set[str] = set()

    def once(label: str) -> str | None:
        new = label not in named
        named.add(label)
        return label if new else None

    for row, measured in zip(results.rows, results.measured, strict=True):
        adaptations = [other.adaptation for other in results.rows if other.method == row.method]
        y = methods.index(row.method) + 0.22 * (
            adaptations.index(row.adaptation) - (len(adaptations) - 1) / 2
        )
        values, colour = 100 * measured.accuracy, COLOUR[row.adaptation]
        axes.scatter(values, np.full(len(values), y), s=12, color=INK, alpha=0.35, lw=0)
        label = once(f"measured, {row.adaptation}" if row.adaptation != "none" else "measured")
        axes.scatter(values.mean(), y, s=60, color=colour, label=label, zorder=3)
        if row.key in experiment.published:
            axes.scatter(
                experiment.published[row.key].accuracy, y, s=50, marker="D", facecolor="none",
                edgecolor=colour, label=once("published"), zorder=3,
            )  # fmt: skip
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.set_xlabel("accuracy after the last task, %; small dots are runs")
    axes.grid(axis="x")
    title(axes, experiment.name, f"{experiment.base.model}, preset {experiment.preset}")


def _matrix(axes, experiment: Experiment, row: Row, measured: Measured) -> None:  # type: ignore[no-untyped-def]
    matrix = measured.matrix.mean(0)  # NaN above the diagonal stays
    draw_task_matrix(axes, matrix.tolist(), experiment.tasks[: len(matrix)])
    title(axes, f"{row.method}, task after task", f"{row.strategy}: {row.label}")
