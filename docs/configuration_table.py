"""The table of settings in configuration.md: ``python docs/configuration_table.py`` writes it anew.

``tests/test_docs.py`` fails where the table and ``fedadapt.config`` differ.
"""

from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from fedadapt.config import RunConfig

PAGE = Path(__file__).parent / "configuration.md"
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"
SIGNS = {"at_least": ">=", "above": ">", "at_most": "<=", "below": "<"}


def table() -> str:
    """One row for each key: its default, what it may be, its line of help."""
    rows = ["| key | default | allowed | what it is |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{f.name.replace('_', '-')}` | {_default(f)} | {_allowed(f)} | {_escaped(f)} |"
        for f in fields(RunConfig)
    ]
    return "\n".join(rows)


def updated(page: str) -> str:
    """The page with the table between its two marks made anew."""
    before, found, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{PAGE}: {BEGIN} or {END} is missing")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _default(f: "Field[Any]") -> str:
    shown = str(f.default).lower() if f.type is bool else f.default
    return f"`{shown}`" if shown != "" else "empty"


def _allowed(f: "Field[Any]") -> str:
    choices = f.metadata["choices"]
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    bounds = [
        f"{SIGNS[rule]} {bound:g}"
        for rule, bound in f.metadata["bounds"].items()
        if bound is not None
    ]
    kind = {int: "whole number", float: "number", str: "text", bool: "true or false"}[f.type]  # type: ignore[index]
    return " ".join([kind, " and ".join(bounds)]).strip()


def _escaped(f: "Field[Any]") -> str:
    return str(f.metadata["help"]).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8")), "utf-8")
