"""Gain over the base, client by client, with all methods side by side: PFA's figure 5."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedadapt.simulations.report.panels import blocks
from fedadapt.simulations.report.style import (
    INK,
    WORSE,
    colour_of,
    legend_columns,
    new_figure,
    styled,
    title,
)
from fedadapt.simulations.results.accuracies import Accuracies

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 50  # clients whose bars can be told apart


def panels_of(labels: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """Return (title, labels) of each panel of the figure.

    The adaptations of personal models are in the second panel, all other labels in the first one.
    As in the paper, that includes personal models without adaptation.
    """
    others = [label for label in labels if label != "base"]
    adapted = [label for label in others if label.startswith("personal+")]
    first = [label for label in others if label not in adapted]
    named = [("Gain over the base model, method by method", first)]
    named.append(("Personal models, adapted on the client as well", adapted))
    return [(name, panel) for name, panel in named if panel]


@styled
def client_gains(accuracies: Accuracies) -> "Figure | None":
    """Draw a group of bars for each client, by kind: gains in points of accuracy.

    None where no gain is known, or where there are too many clients to draw.
    """
    panels = panels_of(accuracies.labels)
    known = np.array(
        [~np.isnan(accuracies.gain(label)) for _, labels in panels for label in labels]
    )
    if not known.any() or known.any(axis=0).sum() > MOST:
        return None
    figure = new_figure(10, 0.4 + 3.0 * len(panels))
    grid = figure.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    for axes, (name, labels) in zip(grid, panels, strict=True):
        _draw(axes, accuracies, name, labels)
    low, high = grid[0].get_ylim()
    for axes in grid:  # shared: only now is it known how far down it goes
        axes.axhspan(min(low, -0.5), 0, color=WORSE, alpha=0.07, lw=0, zorder=0)
    grid[0].set_ylim(low, high)
    return figure


def _draw(axes: "Axes", accuracies: Accuracies, name: str, labels: list[str]) -> None:
    gains = {label: 100 * accuracies.gain(label) for label in labels}
    known: NDArray[np.bool_] = np.any([~np.isnan(gain) for gain in gains.values()], axis=0)
    width = 0.84 / len(labels)
    start, ticks, numbers = 0.0, [], []
    for kind, members in blocks(accuracies, known, otherwise="clients"):
        x = start + np.arange(len(members))
        for i, label in enumerate(labels):
            positions = x + (i - (len(labels) - 1) / 2) * width
            values = gains[label][members]
            colour = colour_of(label, accuracies.labels)
            axes.bar(
                positions, values, 0.88 * width, color=colour, label=label if not start else None
            )
            zero = values == 0  # a bar without height is no client without a model
            axes.plot(positions[zero], values[zero], "_", color=colour, ms=4, mew=1.5)
        axes.annotate(
            kind,
            ((x[0] + x[-1]) / 2, 0),
            xytext=(0, -17),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=9,
        )
        ticks += x.tolist()
        numbers += [str(d) for d in accuracies.client[members]]
        start += len(members) + 0.7
    axes.axhline(0, color=INK, lw=1)
    axes.set_xticks(ticks, numbers, fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.set_xlim(-0.9, start - 0.8)
    axes.grid(axis="y")
    axes.set_ylabel("gain, points of accuracy")
    legend: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    axes.legend(
        **legend, ncols=legend_columns(labels, 8), fontsize=8.5, handlelength=1.0, columnspacing=1.2
    )
    title(axes, name)
