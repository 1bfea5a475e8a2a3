"""The sections of a report about groups: who is in them, and how far apart clients are."""

from typing import TYPE_CHECKING, NamedTuple

from fedadapt.errors import FedadaptError
from fedadapt.simulations.report.group_figures import distance_matrix, layers
from fedadapt.simulations.results.groups import FoundGroups, GroupRow, as_text
from fedadapt.simulations.results.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Section(NamedTuple):
    """A section of the page."""

    title: str
    note: str
    figures: tuple["Figure", ...] = ()
    groups: tuple[GroupRow, ...] = ()


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
    section = Section("Groups of clients", note, (figure,), tuple(groups.rows))
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
    return Section(title, note, (layers(mapped),))
