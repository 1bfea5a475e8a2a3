"""Tables of text on a terminal of whatever width: no word is split, no number is cut or lost."""

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

GAP = 1  # columns of a terminal between two columns of a table


class Part(NamedTuple):
    """A column as it is printed."""

    title: str
    texts: tuple[str, ...]
    bold: tuple[bool, ...] = ()  # which texts are; none where it is empty

    @property
    def width(self) -> int:
        """The columns that it needs: those of its longest word."""
        words = [word for text in (self.title, *self.texts) for word in text.split()]
        return max(map(len, words), default=0)

    @property
    def whole(self) -> int:
        """The columns in which no text has to wrap; the title may."""
        return max([self.width, *map(len, self.texts)])

    @property
    def is_constant(self) -> bool:
        return len(self.texts) > 1 and len(set(self.texts)) == 1


def divided(parts: Sequence[Part], used: int, width: int) -> list[list[Part]]:
    """Divide columns into as few tables as the width allows; ``used`` is what all of them begin."""
    tables: list[list[Part]] = [[]]
    taken = used
    for part in parts:
        if tables[-1] and taken + GAP + part.width > width:
            tables.append([])
            taken = used
        tables[-1].append(part)
        taken += GAP + part.width
    return tables


def empty_table() -> RichTable:
    """Return a table without cells, whose columns are parted by the box: a blank each."""
    return RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=0, pad_edge=False)


class TextTable:
    """A table for ``rich.console.Console.print``: columns of names, then columns of numbers.

    What does not fit wraps at words, and columns that do not fit beside the others stand in another
    table below, with the names again. A first name that is the same as the one above is left out.

    Args:
        title: Above the table.
        heads: Titles of the columns.
        lines: The texts of each row.
        notes: Below the table.
        names: How many columns are names; they stand at the left.

    """

    def __init__(
        self,
        title: str,
        heads: Sequence[str],
        lines: Sequence[Sequence[str]],
        notes: Sequence[str] = (),
        names: int = 2,
    ) -> None:
        self._title, self._notes = title, notes
        # A spread may stand below its mean, but not apart from its sign.
        columns = [
            Part(head, tuple(line[i].replace("± ", "±") for line in lines))
            for i, head in enumerate(heads)
        ]
        self._names, self._parts = columns[:names], columns[names:]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        of_names = self._name_widths(width)
        used = sum(of_names) + GAP * (len(of_names) - 1)
        yield Padding(Text(self._title, style="italic"), (0, 0, 0, 2))
        for i, parts in enumerate(divided(self._parts, used, width)):
            if i:
                yield Text()
            yield self._table(of_names, parts, width - used)
        for note in self._notes:
            yield Text(note, style="dim")

    def _name_widths(self, width: int) -> list[int]:
        """Return whole names, where they leave half of the width and the widest other column."""
        widths = [part.whole for part in self._names]
        least = [part.width for part in self._names]
        widest = max((part.width + GAP for part in self._parts), default=0)
        room = min(width // 2, width - widest) - GAP * (len(widths) - 1)
        while sum(widths) > room and widths != least:
            _, place = max((w, i) for i, w in enumerate(widths) if w > least[i])
            widths[place] -= 1
        return widths

    def _table(self, of_names: Sequence[int], parts: Sequence[Part], room: int) -> RichTable:
        printed = empty_table()
        for part, width in zip(self._names, of_names, strict=True):
            printed.add_column(part.title, width=width)
        for part, width in zip(parts, _widened(parts, room), strict=True):
            printed.add_column(part.title, justify="right", width=width)
        before = ""
        for row in range(len(self._names[0].texts)):
            first, *rest = (part.texts[row] for part in self._names)
            printed.add_row(
                Text("" if first == before else first),
                *map(Text, rest),
                *(Text(part.texts[row]) for part in parts),
            )
            before = first
        return printed


def _widened(parts: Sequence[Part], room: int) -> list[int]:
    """Return widths in which texts wrap as little as the room allows."""
    widths = [part.width for part in parts]
    left = room - sum(width + GAP for width in widths)
    while left > 0:
        wrapped = [i for i, part in enumerate(parts) if widths[i] < part.whole][:left]
        if not wrapped:
            break
        for place in wrapped:
            widths[place] += 1
        left -= len(wrapped)
    return widths
