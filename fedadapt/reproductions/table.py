"""A table of text, for the terminal and for Markdown."""

from typing import NamedTuple

from fedadapt.simulations.results.table_formats import escape_markdown
from fedadapt.simulations.results.text_table import TextTable


class Grid(NamedTuple):
    """A table whose cells are text; a first cell equal to the one above it is left empty."""

    title: str
    heads: tuple[str, ...]
    lines: list[tuple[str, ...]]
    notes: tuple[str, ...]

    def to_markdown(self) -> str:
        rows = [
            f"### {escape_markdown(self.title)}",
            "",
            f"| {' | '.join(map(escape_markdown, self.heads))} |",
            f"|{' --- |' * 2}{' ---: |' * (len(self.heads) - 2)}",
            *(f"| {' | '.join(map(escape_markdown, line))} |" for line in self.lines),
        ]
        rows += [f"\n{escape_markdown(note)}" for note in self.notes]
        return "\n".join(rows) + "\n"

    def to_rich(self) -> TextTable:
        return TextTable(self.title, self.heads, self.lines, self.notes)
