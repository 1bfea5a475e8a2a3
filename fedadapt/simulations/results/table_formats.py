"""A comparison as Markdown, LaTeX (booktabs) or CSV."""

import csv
import io
from pathlib import Path
from typing import Any

from fedadapt.simulations.results.comparison import Cell, Column, Table, shown, shown_spread
from fedadapt.simulations.results.parquet import put

LATEX: dict[str, str] = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
MARKDOWN: dict[str, str] = {**{sign: f"\\{sign}" for sign in "\\|`*_[]<>"}, "\n": " "}


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return " ".join("".join(LATEX.get(sign, sign) for sign in text).split())


def escape_markdown(text: str) -> str:
    """Return text that Markdown prints as it is, also in a cell of a table."""
    return "".join(MARKDOWN.get(sign, sign) for sign in text)


def to_markdown(table: Table) -> str:
    """Return a table in GitHub's Markdown.

    The best number of a column is bold, and the notes are below the table.
    """

    def cell(cell: Cell, column: Column) -> str:
        text = plus_minus(cell, column, "± ")
        return f"**{text}**" if cell.best else text

    heads = ["strategy", "client model", *table.settings, *(c.title for c in table.columns)]
    lines = [
        f"{escape_markdown(table.title)}",
        "",
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * 2}{' ---: |' * (len(table.settings) + len(table.columns))}",
    ]
    for line in table.lines:
        names = map(escape_markdown, (line.strategy, line.label, *line.settings))
        cells = [cell(*pair) for pair in zip(line.cells, table.columns, strict=True)]
        lines.append(f"| {' | '.join([*names, *cells])} |")
    lines += [f"\n> {escape_markdown(note)}." for note in table.notes]
    return "\n".join(lines) + "\n"


def to_latex(table: Table) -> str:
    r"""Return a ``tabular`` with booktabs rules inside a ``table``.

    It needs ``\usepackage{booktabs}``.
    """

    def cell(cell: Cell, column: Column) -> str:
        mean, spread = shown(cell, column), shown_spread(cell, column)
        mean = rf"\mathbf{{{mean}}}" if cell.best else mean
        return f"${mean} \\pm {spread}$" if spread else f"${mean}$" if mean else "--"

    heads = [
        *("strategy", "client model"),
        *map(escape_latex, (*table.settings, *(c.title for c in table.columns))),
    ]
    lines = [f"% {' '.join(note.split())}" for note in table.notes]
    lines += [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape_latex(table.title)}}}",
        rf"  \begin{{tabular}}{{ll{'r' * (len(table.settings) + len(table.columns))}}}",
        r"    \toprule",
        f"    {' & '.join(heads)} \\\\",
        r"    \midrule",
    ]
    previous = None
    for line in table.lines:
        if previous not in (None, line.strategy):
            lines.append(r"    \addlinespace")
        name = "" if line.strategy == previous else escape_latex(line.strategy)
        previous = line.strategy
        words = map(escape_latex, (line.label, *line.settings))
        cells = [cell(*pair) for pair in zip(line.cells, table.columns, strict=True)]
        lines.append(f"    {' & '.join([name, *words, *cells])} \\\\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def to_csv(table: Table) -> str:
    """Return CSV; each number has its spread in the column beside it.

    Accuracies and gains are shares of 1, as in the summaries, and traffic is in MB.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [name for c in table.columns for name in (c.key, f"{c.key}_std")]
    writer.writerow(["strategy", "label", "seeds", *table.settings, *keys])
    for line in table.lines:
        row: list[Any] = [line.strategy, line.label, line.num_seeds, *line.settings]
        for cell, column in zip(line.cells, table.columns, strict=True):
            scale = 1.0 if column.scale > 1 else column.scale  # only bytes are scaled, to MB
            row += [
                "" if value is None else round(value * scale, 6)
                for value in (cell.mean, cell.spread)
            ]
        writer.writerow(row)
    return text.getvalue()


def write_comparison(folder: Path, table: Table, name: str = "comparison") -> tuple[Path, ...]:
    """Write ``name.md``, ``name.tex`` and ``name.csv`` and return their paths."""
    texts = {".md": to_markdown(table), ".tex": to_latex(table), ".csv": to_csv(table)}
    return tuple(put(folder / f"{name}{suffix}", t.encode()) for suffix, t in texts.items())


def plus_minus(cell: Cell, column: Column, sign: str) -> str:
    """Return mean and spread as they are printed, or a dash where there is no number."""
    spread = shown_spread(cell, column)
    return f"{shown(cell, column)} {sign}{spread}" if spread else shown(cell, column) or "-"
