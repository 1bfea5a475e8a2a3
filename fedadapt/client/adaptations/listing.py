"""The table that ``fedadapt adaptations`` prints: all adaptations, or one with its arguments."""

import inspect

from rich.console import Group, RenderableType
from rich.table import Table

from fedadapt.client.adaptations.registry import find, row, rows
from fedadapt.parameters import rows as parameter_rows


def listing(name: str | None = None) -> RenderableType:
    """Return the table of all adaptations, or the description of one or of those joined by +.

    Raises:
        InputError: There is no adaptation of that name.

    """
    return Group(*(_one(part) for part in name.split("+"))) if name else _all()


def _all() -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "what it does", "labels", "batch norm", "--adapt-args"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")
    for each in rows():
        needs = ("yes" if needed else "no" for needed in (each.needs_labels, each.needs_batch_norm))
        arguments = (f"{described.key}={described.shown}" for described in each.parameters)
        table.add_row(each.name, each.description, *needs, " ".join(arguments))
    table.add_row("module:Class", "anybody's class", "", "", "its own")
    table.add_row("a+b", "a, and then b", "", "", "those of a and of b")
    return table


def _one(name: str) -> Group:
    cls = find(name)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("--adapt-args", "default", "allowed", "what it is"):
        table.add_column(column, overflow="fold")
    for key, *rest in parameter_rows(cls):
        table.add_row(f"{name}.{key}", *rest)
    needs = {"labels": cls.needs_labels, "batch normalisation": cls.needs_batch_norm}
    needed = " and ".join(what for what, is_needed in needs.items() if is_needed)
    paragraphs = (inspect.getdoc(cls) or "").split("\n\n")
    described: list[RenderableType] = [f"[bold]{name}[/]"]
    for paragraph in paragraphs:
        described += [paragraph.replace("\n", " "), ""]
    one = row(name)
    asks = one.asks.replace("`", "") or "nothing"
    described += [f"It needs {needed or 'no labels'}.", ""]
    described += [f"It changes {one.changes}. It asks the training clients {asks}.", ""]
    return Group(*described, table if table.row_count else "It takes no --adapt-args.")
