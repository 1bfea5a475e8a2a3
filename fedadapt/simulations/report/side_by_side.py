"""A few models on the same clients, one below the other, compared with training alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedadapt.simulations.report.style import INK, WORSE, colour_of, new_figure, styled, title
from fedadapt.simulations.results.accuracies import TOLERANCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Vector = NDArray[np.float64]
BINS = 20  # of a distribution, in which clients with more values are counted
READING = (
    "Bars count clients; the dashed line is their mean.\n"
    "Left of zero a client would do better without\n"
    "any federation: its bar is vermilion."
)


@styled
def side_by_side(values: Mapping[str, Vector], labels: Mapping[str, str], alone: str) -> "Figure":
    """Draw two columns of histograms: accuracy over clients, and gain over training alone.

    Args:
        values: Accuracies in [0, 1] of the same clients, [D], by the name of the model.
        labels: The label whose colour a model has, by the same names.
        alone: The name of training alone, which has no gain over itself.

    """
    shown = tuple(labels.values())
    figure = new_figure(11, 0.9 + 1.3 * len(values))
    grid = figure.subplots(len(values), 2, sharex="col", sharey="col", squeeze=False)
    step = _step(np.concatenate(list(values.values())))
    for (left, right), (name, accuracy) in zip(grid, values.items(), strict=True):
        colour = colour_of(labels[name], shown)
        _accuracy(left, name, accuracy, colour, step)
        if name == alone:
            right.set_axis_off()
        else:
            _over_alone(right, accuracy - values[alone], colour, step)
    for column in grid.T:
        column[0].set_ylim(0, 1.35 * column[0].get_ylim()[1])  # room for words and counts
    title(grid[0, 0], "Accuracy of each client's model, on its own test")
    title(grid[0, 1], "What each client gains over training alone")
    grid[0, 1].annotate(READING, (0, 0.9), xycoords="axes fraction", va="top", fontsize=9)
    grid[-1, 0].set_xlabel("accuracy, %")
    grid[-1, 1].set_xlabel("points of accuracy over what the same client gets alone")
    grid[-1, 0].set_xlim(-110 * step, 100 + 55 * step)
    grid[-1, 0].set_xticks(range(0, 101, 20))
    return figure


def _step(values: Vector) -> float:
    """Return the width of a bin: the distance of neighbouring values where they are few."""
    known = np.unique(np.round(values[~np.isnan(values)], 9))
    apart = np.diff(known)
    return float(apart.min()) if 0 < len(apart) < BINS else 1 / BINS


def _bars(axes: "Axes", values: Vector, colour: str, step: float) -> None:
    """Draw how many clients have which value; values below zero have the colour of losses."""
    bins, counts = np.unique(np.round(values[~np.isnan(values)] / step), return_counts=True)
    colours = [WORSE if at < 0 else colour for at in bins]
    bars = axes.bar(100 * step * bins, counts, 82 * step, color=colours)
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}  # lines end before numbers
    axes.bar_label(bars, padding=2, fontsize=8, bbox=paper)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])


def _accuracy(axes: "Axes", name: str, accuracy: Vector, colour: str, step: float) -> None:
    _bars(axes, accuracy, colour, step)
    known = np.sort(accuracy[~np.isnan(accuracy)])
    worst = known[: -(-len(known) // 10)].mean()
    axes.axvline(100 * known.mean(), color=INK, lw=1.6, ls=(0, (4, 2)))
    axes.annotate(name, (0, 0.98), xycoords="axes fraction", va="top", weight="bold")
    said = f"mean {100 * known.mean():.1f} %\nworst tenth {100 * worst:.1f} %"
    axes.annotate(said, (0, 0.78), xycoords="axes fraction", va="top", fontsize=9)


def _over_alone(axes: "Axes", gain: Vector, colour: str, step: float) -> None:
    _bars(axes, gain, colour, step)
    known = gain[~np.isnan(gain)]
    better, worse = int((known > TOLERANCE).sum()), int((known < -TOLERANCE).sum())
    axes.axvline(0, color=INK, lw=1)
    said: dict[str, Any] = {"xycoords": "axes fraction", "va": "top", "fontsize": 9}
    axes.annotate(f"worse off: {worse} of {len(known)}", (0, 0.98), **said, color=WORSE)
    mean = f"{100 * known.mean():+.1f}".replace("-", "\N{MINUS SIGN}")
    text = f"mean {mean} points\nbetter off: {better} of {len(known)}"
    axes.annotate(text, (1, 0.98), **said, ha="right")
