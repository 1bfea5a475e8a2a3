"""What ``fedadapt models`` prints: a line for each network, or one with its sizes. No torch."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedadapt.models.registry import ENTRIES, NETWORKS, NetworkEntry, find_network
from fedadapt.name_list import NameList


def listing(name: str | None = None) -> RenderableType:
    """Return a list of all networks, those of other packages last, or one with its sizes.

    Raises:
        InputError: There is no network of that name.

    """
    return _one(name) if name else _all()


def _all() -> NameList:
    rows = [(entry.name, *_sizes(entry), entry.description) for entry in ENTRIES]
    rows += [(name, "", "", f"made by {path}") for name, path in NETWORKS.theirs().items()]
    rows.append(("module:factory", "", "", "your own"))
    hint = "fedadapt models NAME: least image size, weights, where it is made"
    return NameList(("name", "parameters", "batch norm", "what it is"), rows, hint)


def _sizes(entry: NetworkEntry) -> tuple[str, str]:
    number = "" if entry.num_parameters is None else f"{entry.num_parameters:,}"
    return number, "yes" if entry.batch_norm else "no"


def _one(name: str) -> Group:
    entry = find_network(name)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    if entry is None:
        table.add_row("made by", NETWORKS.path(name))
        return Group(Text(name, style="bold"), table)
    number, batch_norm = _sizes(entry)
    shape = "x".join(map(str, entry.usual_shape))
    weights = f"--weights imagenet ({entry.imagenet})" if entry.imagenet else "none of torchvision"
    for fact in (
        ("parameters", f"{number or 'by width'}, with 10 classes and images of {shape}"),
        ("least pixels a side", str(entry.min_size)),
        ("batch norm", batch_norm),
        ("weights", weights),
        ("made by", entry.factory),
    ):
        table.add_row(*fact)
    return Group(Text(name, style="bold"), f"{entry.description}.\n", table)
