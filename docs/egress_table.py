"""The table of what may leave a client; ``python docs/egress_table.py`` writes it."""

from pathlib import Path

from fedadapt.strategies.leaving import leaving

PAGE = Path(__file__).parent / "egress.md"
BEGIN, END = "<!-- leaving: begin -->", "<!-- leaving: end -->"


def table() -> str:
    """The rows, as ``fedadapt ledger --explain`` prints them."""
    rows = [f"| `{r.message}` | {', '.join(r.asked_by)} | {r.holds} |" for r in leaving()]
    return "\n".join(["| message | asked by | an answer holds |", "| --- | --- | --- |", *rows])


def updated(page: str) -> str:
    """The page with the table between its marks made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8")), "utf-8")
