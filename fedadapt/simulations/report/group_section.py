"""What a report says of groups: who is in them, and how far apart clients are, layer by layer."""

from typing import TYPE_CHECKING, NamedTuple

from fedadapt.errors import FedadaptError
from fedadapt.simulations.report.group_figures import distance_matrix, layers
from fedadapt.simulations.results.groups import FoundGroups, GroupRow, as_text
from fedadapt.simulations.results.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Section(NamedTuple):
    """A part of the page."""

    title: str
    note: str
    figures: tuple["Figure", ...] = ()
    groups: tuple[GroupRow, ...] = ()


def group_sections(run: RunFolder, found: FoundGroups, *, measure: bool) -> list[Section]:
    """The groups with the clients' distances; the map of layers, or why it is left out."""
    note = f"{as_text(found)}."
    if not found.has_distances:
        return [Section("Groups of clients", note, (), tuple(found.rows))]
    if length := found.vectors.shape[1]:
        note += (
            f" Distances are between what clients reported: {length} numbers, {4 * length} bytes "
            "each."
        )
    figure = distance_matrix(found)
    groups = Section("Groups of clients", note, (figure,), tuple(found.rows))
    return [groups, _layers(run, measure=measure)] if found.compares_layers else [groups]


def _layers(run: RunFolder, *, measure: bool) -> Section:
    from fedadapt.simulations.report.layer_map import layer_map

    title = "Clients seen from each layer"
    try:
        found = layer_map(run, measure=measure)
    except FedadaptError as error:
        return Section(title, f"Left out. {error}.")
    note = (
        f"Distance to client {found.clients[0]} by the channels of each ReLU layer of the base "
        "model; layers with fewer channels give all they have. The number beside a row is the mean "
        "distance between kinds over the mean distance within: the higher, the easier to group."
    )
    return Section(title, note, (layers(found),))
