"""What ``fedadapt adaptations`` prints: a line for each, or one with its arguments."""

import inspect

from rich.console import Group, RenderableType
from rich.table import Table

from fedadapt.client.adaptations.registry import find, row, rows
from fedadapt.name_list import NameList
from fedadapt.parameters import rows as parameter_rows


def listing(name: str | None = None) -> RenderableType:
    """Return a list of all adaptations, or the description of one or of those joined by +.

    Raises:
        InputError: There is no adaptation of that name.

    """
    return Group(*(_one(part) for part in name.split("+"))) if name else _all()


def _all() -> NameList:
    lines = [
        (each.name, _yes(each.needs_labels), _yes(each.needs_batch_norm), each.description)
        for each in rows()
    ]
    lines += [("module:Class", "", "", "anybody's class"), ("a+b", "", "", "a, and then b")]
    hint = "fedadapt adaptations NAME: what it is, and its arguments"
    return NameList(("name", "labels", "batch norm", "what it does"), lines, hint)


def _yes(needed: bool) -> str:
    return "yes" if needed else "no"


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
