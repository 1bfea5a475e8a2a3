"""A comparison of finished runs in Python."""

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from fedadapt.errors import need
from fedadapt.results import load as load_evaluations
from fedadapt.runs.run import Run
from fedadapt.simulations.results.comparison import Table
from fedadapt.simulations.results.table_formats import to_csv, to_markdown

if TYPE_CHECKING:
    import pandas


class Comparison:
    """Runs on the same clients, and the table of all of them."""

    def __init__(self, folder: Path, table: Table, runs: Sequence[Path]) -> None:
        """Hold a table, and the folders of its runs in order."""
        self.path = folder
        self.runs = tuple(Run(run) for run in runs)
        self._table = table

    @property
    def table(self) -> "pandas.DataFrame":
        """A row for each strategy, setting and client model: means over seeds, ``_std`` beside.

        Accuracies are shares of 1 and traffic is in MB.
        """
        need("pandas", "fedadapt.compare")
        import pandas

        return pandas.read_csv(io.StringIO(to_csv(self._table)))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know before believing the numbers."""
        return self._table.notes

    @property
    def evaluations(self) -> "pandas.DataFrame":
        """Every evaluation at the end of each run; columns as ``fedadapt.results.load`` has."""
        return load_evaluations([run.path for run in self.runs])

    def __repr__(self) -> str:
        return to_markdown(self._table)

    def _repr_html_(self) -> str:
        """Return the table and its notes, for a notebook."""
        numbers = self.table.to_html(index=False, float_format=lambda v: f"{v:.4f}", na_rep="-")
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        heading = f"<p><b>{escape(self._table.title.strip())}</b></p>"
        return f"{heading}{numbers}<ul>{notes}</ul>" if notes else heading + numbers
