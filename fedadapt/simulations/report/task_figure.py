"""Accuracy on each task after each task as a picture: rows are times, columns are tasks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedadapt.simulations.report.style import INK, near_to_far, new_figure, styled, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Matrix = Sequence[Sequence[float | None]]
"""Shares [T, T]; None where a task had not been learnt or was not measured."""


@styled
def task_matrix(matrix: Matrix, name: str, subtitle: str = "") -> "Figure":
    """Draw the matrix of one client model; ``name`` is its title."""
    count = len(matrix)
    figure = new_figure(2.6 + 0.62 * count, 1.9 + 0.42 * count)
    draw_task_matrix(figure.subplots(), matrix, [str(task + 1) for task in range(count)])
    title(figure.axes[0], name, subtitle)
    return figure


def draw_task_matrix(axes: "Axes", matrix: Matrix, tasks: Sequence[str]) -> None:
    """Draw cells with their numbers, in percent; a darker cell is a higher accuracy."""
    percent = 100 * np.array([[np.nan if v is None else v for v in row] for row in matrix], float)
    known = ~np.isnan(percent)
    image = axes.imshow(np.ma.masked_invalid(percent), cmap=near_to_far().reversed())
    middle = (percent[known].min() + percent[known].max()) / 2 if known.any() else 0.0
    for after, task in zip(*np.nonzero(known), strict=True):
        value = percent[after, task]
        colour = "white" if value > middle else INK
        axes.text(task, after, f"{value:.1f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_yticks(range(len(matrix)), [f"after {after + 1}" for after in range(len(matrix))])
    axes.set_xlabel("accuracy on task, %")
    axes.figure.colorbar(image, ax=axes, shrink=0.8)
