"""The sections of a report about groups: who is in them, and how far apart clients are."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fedadapt.errors import FedadaptError
from fedadapt.simulations.report.group_figures import MOST_COMPARED, distance_matrix, layers
from fedadapt.simulations.results.groups import FoundGroups, GroupRow, as_text
from fedadapt.simulations.results.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fedadapt.simulations.report.layer_map import LayerMap


class Numbers(NamedTuple):
    """A table that stands for a figure, for those who cannot see it."""

    summary: str
    heads: tuple[str, ...]  # the first column is of names
    lines: tuple[tuple[str, ...], ...]


class Section(NamedTuple):
    """A section of the page."""

    title: str
    note: str
    figures: tuple["Figure", ...] = ()
    groups: tuple[GroupRow, ...] = ()
    numbers: tuple[Numbers, ...] = ()


def group_sections(run: RunFolder, groups: FoundGroups, *, measure: bool) -> list[Section]:
    """Return a section with the groups and the clients' distances, and one with the map of layers.

    The second one says why the map is left out, if it is; strategies that do not compare layers
    have none.

    Args:
        measure: Measure the map of layers if it has not been measured before.

    """
    note = f"{as_text(groups)}."
    if not groups.has_distances:
        return [Section("Groups of clients", note, (), tuple(groups.rows))]
    if length := groups.vectors.shape[1]:
        note += (
            f" Distances are between what clients reported: {length} numbers, {4 * length} bytes "
            "each."
        )
    figure = distance_matrix(groups)
    section = Section(
        "Groups of clients", note, (figure,), tuple(groups.rows), (_between_groups(groups),)
    )
    return [section, _layers(run, measure=measure)] if groups.compares_layers else [section]


def _layers(run: RunFolder, *, measure: bool) -> Section:
    from fedadapt.simulations.report.layer_map import layer_map

    title = "Clients seen from each layer"
    try:
        mapped = layer_map(run, measure=measure)
    except FedadaptError as error:
        return Section(title, f"Left out. {error}.")
    note = (
        f"Distance to client {mapped.clients[0]} by the channels of each ReLU layer of the base "
        "model; layers with fewer channels give all they have. The number beside a row is the mean "
        "distance between kinds over the mean distance within: the higher, the easier to group."
    )
    return Section(title, note, (layers(mapped),), (), (_by_layer(mapped),))


def _between_groups(groups: FoundGroups) -> Numbers:
    """Return the mean distances between the clients of two groups, and of one group."""
    order = np.arange(len(groups.clients))
    if len(order) > MOST_COMPARED:  # as in the figure
        order = order[np.linspace(0, len(order) - 1, MOST_COMPARED).round().astype(int)]
    distances, labels = groups.distances(order), groups.labels[order]
    apart = ~np.eye(len(order), dtype=bool)
    names = np.unique(labels).tolist()
    lines = []
    for one in names:
        pairs = [apart & np.outer(labels == one, labels == other) for other in names]
        means = [f"{distances[of].mean():.4g}" if of.any() else "\N{EN DASH}" for of in pairs]
        lines.append((f"group {one + 1}", *means))
    heads = ("mean distance", *(f"group {name + 1}" for name in names))
    return Numbers(f"the numbers: {groups.unit} between clients", heads, tuple(lines))


def _by_layer(mapped: "LayerMap") -> Numbers:
    """Return the distances with the largest number of channels, and the separation."""
    heads = ("layer", "channels", *(f"client {d}" for d in mapped.clients), "between / within")
    lines = []
    for i, (name, channels) in enumerate(zip(mapped.layers, mapped.channels, strict=True)):
        ratio = mapped.separation[-1][i]
        numbers = [f"{distance:.4g}" for distance in mapped.distances[-1][i]]
        lines.append(
            (name, str(channels), *numbers, "\N{EN DASH}" if ratio is None else f"{ratio:.2f}")
        )
    summary = f"the numbers: distances to client {mapped.clients[0]}, {mapped.numbers[-1]} channels"
    return Numbers(summary, heads, tuple(lines))
