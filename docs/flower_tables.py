"""The tables of node configuration and of refusals: ``python docs/flower_tables.py`` writes them.

``tests/test_docs.py`` fails where the tables and ``fedadapt`` differ.
"""

from pathlib import Path

from fedadapt.errors import REFUSALS
from fedadapt.flower.owner import KEYS

PAGE = Path(__file__).parent / "flower.md"


def tables() -> dict[str, str]:
    """The rows of each table, by its mark."""
    keys = [f"| `{key}` | {what} |" for key, what in KEYS.items()]
    words = [f"| `refused:{word}` | {why} |" for word, why in REFUSALS.items()]
    return {
        "node keys": "\n".join(["| key | what it is |", "| --- | --- |", *keys]),
        "refusals": "\n".join(["| word | what the server says |", "| --- | --- |", *words]),
    }


def updated(page: str) -> str:
    """The page with the tables between their marks made anew."""
    for mark, table in tables().items():
        begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
        before, found, rest = page.partition(begin)
        _, ended, after = rest.partition(end)
        if not (found and ended):
            raise ValueError(f"{PAGE}: {begin} or {end} is missing")
        page = f"{before}{begin}\n{table}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8")), "utf-8")
