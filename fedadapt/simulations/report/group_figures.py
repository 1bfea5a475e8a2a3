"""Figures of a method that groups clients: the distances between them, at each layer too."""

from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedadapt.simulations.report.style import (
    BEFORE,
    COLOURS,
    near_to_far,
    new_figure,
    shortened,
    styled,
    title,
)
from fedadapt.simulations.results.groups import FoundGroups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedadapt.simulations.report.layer_map import LayerMap

MOST_COMPARED = 1000  # clients of a picture; of more, evenly spaced ones stand for all
MOST_NUMBERED = 40  # clients whose numbers fit
MOST_GROUPS_NUMBERED = 12
MOST_NAMED = 24  # blocks of one kind whose names fit
SIGNS_IN_A_ROW = 36  # of kinds' names below a panel; more are slanted
FRAME = COLOURS[2]  # stands out from every blue


@styled
def distance_matrix(groups: FoundGroups) -> "Figure":
    """Draw the distances between clients by what was compared.

    The groups are framed and the kinds are named at the side; a second panel has a histogram of the
    distances.
    """
    order = np.lexsort((groups.clients, np.array(groups.kinds, dtype=object), groups.labels))
    if len(order) > MOST_COMPARED:
        order = order[np.linspace(0, len(order) - 1, MOST_COMPARED).round().astype(int)]
    distances = groups.distances(order)
    kinds = [groups.kinds[d] for d in order]
    figure = new_figure(10, 5.2)
    left, right = figure.subplots(1, 2, width_ratios=(5, 4))
    image = left.imshow(distances, cmap=near_to_far(), vmin=0, interpolation="nearest")
    bar = figure.colorbar(image, ax=left, pad=0.02, shrink=0.8, aspect=30)
    bar.set_label(groups.unit)
    bar.outline.set_visible(False)
    _frame_groups(left, groups.labels[order])
    _name_kinds(left, groups.labels[order], kinds)
    _number_clients(left, groups.clients[order])
    title(left, "How different clients look", f"{groups.num_groups} groups found, framed")
    _draw_distances(right, distances, kinds, groups.labels[order], groups.unit)
    return figure


def _frame_groups(axes: "Axes", labels: NDArray[np.int64]) -> None:
    from matplotlib.patches import Rectangle

    start = 0
    numbered = len(set(labels.tolist())) <= MOST_GROUPS_NUMBERED
    for label, run in groupby(labels.tolist()):
        length = len(list(run))
        corner = (start - 0.5, start - 0.5)
        axes.add_patch(Rectangle(corner, length, length, fill=False, ec=FRAME, lw=2, clip_on=False))
        if numbered:  # top right inside: as the table of groups numbers them
            axes.annotate(
                f"{label + 1}",
                (start + length - 0.5, start - 0.5),
                xytext=(-4, -3),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=9,
                weight="bold",
                color="white",
            )
        start += length


def _name_kinds(axes: "Axes", labels: NDArray[np.int64], kinds: list[str]) -> None:
    """Name each run of clients of one kind inside one group, with lines between the runs."""
    starts, names = [0], []
    for (_, kind), run in groupby(zip(labels.tolist(), kinds, strict=True)):
        starts.append(starts[-1] + len(list(run)))
        names.append(shortened(kind, 18))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if len(names) > MOST_NAMED or not any(names):
        axes.set_yticks([])
        return
    axes.set_yticks([(a + b - 1) / 2 for a, b in pairwise(starts)], names)
    for edge in starts[1:-1]:
        axes.axhline(edge - 0.5, color="white", lw=0.8, alpha=0.9)
        axes.axvline(edge - 0.5, color="white", lw=0.8, alpha=0.9)


def _number_clients(axes: "Axes", clients: NDArray[np.int64]) -> None:
    if len(clients) > MOST_NUMBERED:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(clients)} clients")
        return
    axes.set_xticks(range(len(clients)), [str(d) for d in clients], fontsize=7)
    axes.set_xlabel("client")


def _draw_distances(
    axes: "Axes",
    distances: NDArray[np.float64],
    kinds: list[str],
    labels: NDArray[np.int64],
    unit: str,
) -> None:
    """Draw histograms of the distances between clients of the same kind and of different kinds.

    If all clients are of one kind, their groups take the place of kinds.
    """
    first, second = np.triu_indices(len(kinds), 1)
    several = len(set(kinds)) > 1
    names: NDArray[Any] = np.array(kinds, dtype=object) if several else labels
    same, values = names[first] == names[second], distances[first, second]
    edges = np.linspace(0, float(values.max(initial=0.0)) or 1.0, 41).tolist()
    what = ("same kind", "different kinds") if several else ("same group", "different groups")
    for part, colour, name in zip((same, ~same), (COLOURS[0], BEFORE), what, strict=True):
        if part.any():
            weights = np.full(part.sum(), 100 / part.sum())
            axes.hist(
                values[part], edges, weights=weights, color=colour, alpha=0.75, lw=0, label=name
            )
            axes.axvline(values[part].mean(), color=colour, lw=1.6, ls=(0, (4, 3)))
    axes.set_xlim(0, edges[-1])
    axes.set_xlabel(unit)
    axes.set_ylabel("pairs of clients, %")
    axes.grid(axis="y")
    if same.size:
        axes.legend(fontsize=9, loc="upper right")
    title(axes, "Pairs of clients", "each colour adds up to 100 %; dashed: mean")


@styled
def layers(layer_map: "LayerMap") -> "Figure":
    """Draw the distance to the first client by layer and client, a panel for each channel number.

    Colours are relative to the farthest client of a layer, because layers differ in scale. The
    number beside a row is the layer's separation: the mean distance between kinds divided by that
    within kinds.
    """
    height = 2.1 + max(0.24, 0.34 - 0.004 * len(layer_map.layers)) * len(layer_map.layers)
    figure = new_figure(10, height)
    panels = figure.subplots(1, len(layer_map.numbers), sharey=True, squeeze=False)[0]
    image = None
    for i, (axes, number) in enumerate(zip(panels, layer_map.numbers, strict=True)):
        distances = np.array(layer_map.distances[i], dtype=float)
        most = distances.max(axis=1, keepdims=True)
        relative = np.divide(distances, most, out=np.zeros_like(distances), where=most > 0)
        image = axes.imshow(
            relative, cmap=near_to_far(), vmin=0, vmax=1, aspect="auto", interpolation="nearest"
        )
        _label_columns(axes, layer_map)
        for y, ratio in enumerate(layer_map.separation[i]):
            text = "\N{EN DASH}" if ratio is None else f"{ratio:.1f}\N{MULTIPLICATION SIGN}"
            axes.annotate(
                text,
                (1, y),
                xytext=(5, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        title(axes, f"{number} channels")
    names = [f"{_ending(name, 26)}  {i:2}" for i, name in enumerate(layer_map.layers)]
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    if image is not None:
        bar = figure.colorbar(
            image, ax=list(panels), location="bottom", shrink=0.35, aspect=40, pad=0.03
        )
        bar.set_ticks([0, 1], labels=["as the reference", "farthest of the layer"], fontsize=8.5)
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
    return figure


def _ending(name: str, length: int) -> str:
    """Return the last ``length`` characters of a name; a cut is marked by an ellipsis."""
    return name if len(name) <= length else f"…{name[1 - length :]}"


def _label_columns(axes: "Axes", layer_map: "LayerMap") -> None:
    """Label each column with the client's number and its kind, with lines between kinds."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    names = [str(d) for d in layer_map.clients]
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.get_xticklabels()[0].set_fontweight("bold")
    blocks = [(kind, len(list(run))) for kind, run in groupby(layer_map.kinds)]
    slanted = max(len(kind) for kind, _ in blocks) * len(blocks) > SIGNS_IN_A_ROW
    how: dict[str, Any] = {"ha": "center", "va": "top"}
    if slanted:
        how = {"ha": "right", "va": "top", "rotation": 35, "rotation_mode": "anchor"}
    start = 0
    for kind, length in blocks:
        if start:
            axes.axvline(start - 0.5, color="white", lw=2)
        axes.annotate(
            shortened(kind, 16),
            (start + (length - 1) / 2, 0),
            xytext=(6 if slanted else 0, -17),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=8,
            **how,
        )
        start += length
