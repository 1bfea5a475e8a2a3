"""A comparison on a terminal of whatever width: no word is split, no number is cut or lost."""

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from fedadapt.simulations.results.comparison import Table
from fedadapt.simulations.results.table_formats import plus_minus
from fedadapt.simulations.results.text_table import GAP, Part, divided, empty_table

LOG = 100  # columns of a log, which has no terminal to ask
METHOD = 14  # columns that the name of a method has at most; a longer one wraps at its words


class TerminalTable:
    """A comparison for ``rich.console.Console.print``; the best of a column is bold.

    The name of a single strategy moves into the title. A column whose number is the same in each
    row becomes a line below the table, and columns that do not fit beside the others stand in a
    second table below the first.
    """

    def __init__(self, table: Table) -> None:
        self._strategies = list(dict.fromkeys(line.strategy for line in table.lines))
        self._single = len(self._strategies) == 1
        self._title = f"{self._strategies[0]}, {table.title}" if self._single else table.title
        self._rows = [(line.strategy, line.label) for line in table.lines]
        plain = (False,) * len(table.lines)
        settings = [
            Part(key, tuple(line.settings[i] for line in table.lines), plain)
            for i, key in enumerate(table.settings)
        ]
        numbers = [
            Part(
                column.title.replace("+", " + "),  # it wraps there
                tuple(plus_minus(line.cells[i], column, "±") for line in table.lines),
                tuple(line.cells[i].best for line in table.lines),
            )
            for i, column in enumerate(table.columns)
        ]
        self._parts = settings + [part for part in numbers if not part.is_constant]
        constant = [f"{p.title}: {p.texts[0]} in each row" for p in numbers if p.is_constant]
        self._notes = [*(["; ".join(constant)] if constant else []), *table.notes]

    @property
    def row_count(self) -> int:
        return len(self._rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        tables = [self._table(parts) for parts in self._fitting(options.max_width)]
        for i, printed in enumerate(tables):
            yield Text() if i else Padding(Text(self._title, style="italic"), (0, 0, 0, 2))
            yield printed
        for note in self._notes:
            yield Text(note, style="yellow")

    def _fitting(self, width: int) -> list[list[Part]]:
        """Divide the columns into as few tables as the width allows."""
        names = self._label_width()
        if not self._single:
            names += GAP + self._method_width()
        return divided(self._parts, names, width)

    def _label_width(self) -> int:
        return max([len("client model"), *(len(label) for _, label in self._rows)])

    def _method_width(self) -> int:
        words = [word for name in self._strategies for word in name.split()]
        longest = max(map(len, (*self._strategies, "method")))
        return max([min(longest, METHOD), *map(len, words)])

    def _table(self, parts: Sequence[Part]) -> RichTable:
        printed = empty_table()
        if not self._single:
            printed.add_column("method", width=self._method_width())
        printed.add_column("client model", no_wrap=True, width=self._label_width())
        for part in parts:
            printed.add_column(part.title, justify="right", width=part.width)
        previous = None
        for i, (strategy, label) in enumerate(self._rows):
            if previous not in (None, strategy):
                printed.add_section()
            name, previous = ("" if strategy == previous else strategy), strategy
            cells: list[Any] = [
                Text(part.texts[i], style="bold" if part.bold[i] else "") for part in parts
            ]
            printed.add_row(*([] if self._single else [Text(name)]), Text(label), *cells)
        return printed


def as_lines(table: Table, width: int = LOG) -> list[str]:
    """Return a comparison as lines of text for a log, without colours."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    with console.capture() as captured:
        console.print(TerminalTable(table))
    return [line.rstrip() for line in captured.get().splitlines()]
