"""What ``fedadapt strategies`` prints: a line for each strategy, or one with its arguments."""

import inspect
import re
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from fedadapt.name_list import NameList
from fedadapt.parameters import parameters, rows
from fedadapt.registry import import_path
from fedadapt.strategies.facts import TITLES, facts
from fedadapt.strategies.registry import FLOWER, STRATEGIES, find, is_flowers
from fedadapt.strategies.selected import settings_of


def listing(name: str | None = None) -> RenderableType:
    """Return a list of all strategies, or the description of one.

    Raises:
        InputError: There is no strategy of that name.

    """
    return _one(name) if name else _all()


def _all() -> NameList:
    rows = [(name, summary(find(name))) for name in STRATEGIES.names()]
    rows.append(("module:Class", "anybody's class, of our interface or Flower's"))
    hint = "fedadapt strategies NAME: what it is, its arguments, the settings it uses"
    return NameList(("name", "what it does"), rows, hint)


def _one(name: str) -> Group:
    cls = find(name)
    described: list[RenderableType] = [f"[bold]{name}[/]", _paragraphs(cls)]
    if is_flowers(cls):
        takes = " ".join(arguments(cls))
        described.append(f"\nA class of Flower's; --strategy-args are its constructor's: {takes}")
        return Group(*described)
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for column in ("--strategy-args", "default", "allowed", "what it is"):
        table.add_column(column, overflow="fold")
    for row in rows(cls):
        table.add_row(*row)
    described += ["", table] if table.row_count else ["\nIt takes no --strategy-args."]
    known = Table(box=None, pad_edge=False, show_header=False)
    for title, words in zip(TITLES, facts(cls), strict=True):
        known.add_row(title, words.replace("`", "") or "-")
    described += ["", known]
    described.append(f"\nSettings it uses: {', '.join(sorted(settings_of(cls)))}")
    return Group(*described)


def _paragraphs(cls: type[Any]) -> str:
    """A class's docstring with a line for each paragraph and item, which the terminal wraps."""
    return re.sub(r"(?<!\n)\n(?!\n|- )\s*", " ", inspect.getdoc(cls) or "")


def summary(cls: type[Any]) -> str:
    """The first sentence of a class's docstring."""
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def arguments(cls: type[Any]) -> tuple[str, ...]:
    """The names that ``--strategy-args`` takes."""
    if is_flowers(cls):
        accepted = import_path(FLOWER).parameters_of(cls)
        return tuple(accepted) if accepted is not None else ("anything",)
    return tuple(parameters(cls))
