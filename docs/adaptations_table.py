"""The tables of adaptations.md: ``python docs/adaptations_table.py`` writes them anew.

``tests/test_docs.py`` fails where the page and the classes of the adaptations differ.
"""

from pathlib import Path

from fedadapt.client.adaptations.registry import ADAPTATIONS, Row, rows
from fedadapt.parameters import Described

PAGE = Path(__file__).parent / "adaptations.md"
BEGIN, END = "<!-- adaptations: begin -->", "<!-- adaptations: end -->"


def tables() -> str:
    """Our adaptations, one a row; then their arguments, one a row."""
    ours = [row for row in rows() if row.name in ADAPTATIONS.ours]
    return "\n".join([*_adaptations(ours), "", *_arguments(ours)])


def updated(page: str) -> str:
    """The page with the tables between the two marks made anew."""
    before, found, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{PAGE}: {BEGIN} or {END} is missing")
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def _adaptations(ours: list[Row]) -> list[str]:
    heads = ("name", "what it does", "labels", "batch norm", "images", "changes", "asks for")
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for row in ours:
        needs = ("yes" if needed else "no" for needed in (row.needs_labels, row.needs_batch_norm))
        part = next((p.shown for p in row.parameters if p.key == "part"), "-")
        cells = (row.description, *needs, part, row.changes, row.asks or "-")
        lines.append(f"| `{row.name}` | {' | '.join(cells)} |")
    return lines


def _arguments(ours: list[Row]) -> list[str]:
    """An argument that several adaptations have is one row, with the defaults of each."""
    heads = ("argument", "defaults", "allowed", "what it is")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    defaults: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for row in ours:
        for described in row.parameters:
            key = (described.key, _allowed(described), described.param.help)
            of_each = defaults.setdefault(key, {})
            of_each.setdefault(f"`{described.shown}`", []).append(f"`{row.name}`")
    for (argument, allowed, help), of_each in defaults.items():
        shown = "; ".join(f"{default} ({', '.join(names)})" for default, names in of_each.items())
        lines.append(f"| `{argument}` | {shown} | {allowed} | {help} |")
    return lines


def _allowed(described: Described) -> str:
    if described.param.choices:
        return ", ".join(f"`{choice}`" for choice in described.param.choices)
    return described.values


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8")), "utf-8")
