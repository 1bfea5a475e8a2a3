"""Lists of names for the terminal: a line each, however narrow the terminal is."""

import re
import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

GAP = 2  # blank columns between two columns
LEAST = 12  # columns that a description has at least, on however narrow a terminal
NUMBERS = "0123456789,."
END = re.compile(r"(?<!\.)\. (?=[A-Z])")  # of a sentence; not of "sec. 5" or "... and"


class NameList:
    """Rows of which the last column is prose that ends, at a word, where the terminal does.

    All other columns are shown whole. ``hint`` says how to see all of one name.
    """

    def __init__(
        self, heads: Sequence[str], rows: Iterable[Sequence[str]], hint: str = "", title: str = ""
    ) -> None:
        self.heads = tuple(heads)
        self.rows = [tuple(row) for row in rows]
        self.hint = hint
        self.title = title

    @property
    def names(self) -> list[str]:
        """The first column."""
        return [row[0] for row in self.rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = list(zip(self.heads, *self.rows, strict=True))[:-1]
        taken = sum(max(map(len, column)) + GAP for column in columns)
        room = max(LEAST, options.max_width - taken)
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
        for head, *cells in columns:
            numbers = all(set(cell) <= set(NUMBERS) for cell in cells)
            table.add_column(head, no_wrap=True, justify="right" if numbers else "left")
        table.add_column(self.heads[-1], no_wrap=True)
        for row in self.rows:
            *cells, prose = row
            table.add_row(*map(Text, cells), Text(shortened(prose, room)))
        if self.title:
            yield Text(self.title, style="italic")
        yield table
        if self.hint:
            yield Text(f"\n{self.hint}", style="dim")


def shortened(prose: str, width: int) -> str:
    """Return the first sentence of ``prose``, cut at a word where it is longer than ``width``."""
    sentence = END.split(prose)[0].removesuffix(".")
    return textwrap.shorten(sentence, width, placeholder=" ...")
