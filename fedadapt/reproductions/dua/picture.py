"""Draw a table: the accuracy of every method, and of one method after each task."""

from pathlib import Path

import numpy as np

from fedadapt.reproductions.dua.plan import Experiment, Row
from fedadapt.reproductions.dua.published import ADAPTATIONS
from fedadapt.reproductions.dua.results import Measured, Results
from fedadapt.simulations.report.style import (
    COLOURS,
    INK,
    near_to_far,
    new_figure,
    save_png,
    styled,
    title,
)

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
    matrix = 100 * measured.matrix.mean(0)  # NaN above the diagonal stays
    count = len(matrix)
    image = axes.imshow(np.ma.masked_invalid(matrix), cmap=near_to_far().reversed())
    middle = (np.nanmin(matrix) + np.nanmax(matrix)) / 2
    for time, task in zip(*np.nonzero(~np.isnan(matrix)), strict=True):
        value = matrix[time, task]
        colour = "white" if value > middle else INK
        axes.text(task, time, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(count), experiment.tasks[:count])
    axes.set_yticks(range(count), [f"after {t + 1}" for t in range(count)])
    axes.set_xlabel("accuracy on task, %")
    axes.figure.colorbar(image, ax=axes, shrink=0.8)
    title(axes, f"{row.method}, task after task", f"{row.strategy}: {row.label}")
