"""The table of settings in configuration.md: ``python docs/configuration_table.py`` writes it anew.

``tests/test_docs.py`` fails where the table and ``fedadapt.config`` differ.
"""

from pathlib import Path

from fedadapt.config import RunConfig
from fedadapt.parameters import Described, parameters

PAGE = Path(__file__).parent / "configuration.md"
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def table() -> str:
    """One row for each key: its default, what it may be, its line of help."""
    rows = ["| key | default | allowed | what it is |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{setting.key}` | {_default(setting)} | {_allowed(setting)} | {_help(setting)} |"
        for setting in parameters(RunConfig).values()
    ]
    return "\n".join(rows)


def updated(page: str) -> str:
    """The page with the table between its two marks made anew."""
    before, found, rest = page.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"{PAGE}: {BEGIN} or {END} is missing")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def _default(setting: Described) -> str:
    return f"`{setting.shown}`" if setting.shown else "empty"


def _allowed(setting: Described) -> str:
    if setting.param.choices:
        return ", ".join(f"`{choice}`" for choice in setting.param.choices)
    return setting.values


def _help(setting: Described) -> str:
    return setting.param.help.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8")), "utf-8")
