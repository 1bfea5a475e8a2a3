"""A table of text, for the terminal and for Markdown."""

from typing import TYPE_CHECKING, NamedTuple

from fedadapt.simulations.results.table_formats import escape_markdown

if TYPE_CHECKING:
    import rich.table


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

    def to_rich(self) -> "rich.table.Table":
        from rich.table import Table

        table = Table(title=self.title, caption=" ".join(self.notes) or None, box=None)
        for number, head in enumerate(self.heads):
            table.add_column(head, justify="left" if number < 2 else "right", no_wrap=number < 2)
        before = ""
        for line in self.lines:
            first = "" if line[0] == before else line[0]
            before = line[0]
            table.add_row(first, *line[1:])
        return table
