"""A finished run in Python: its tables, figures and models."""

import base64
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedadapt.config import RunConfig
from fedadapt.errors import need
from fedadapt.results import load as load_evaluations
from fedadapt.simulations.studies.made_runs import read_run

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from torch import nn

OF_CLIENTS = ["client", "kind", "seen", "num_examples"]


class Run:
    """A finished run in its folder. Tables are pandas DataFrames, read when they are asked for.

    >>> run = fedadapt.Run("runs/digits-classes-fedavg-1")              # doctest: +SKIP
    >>> run.summary.loc["base+fine-tune", "mean"]                       # doctest: +SKIP
    0.986923
    """

    def __init__(self, folder: str | Path) -> None:
        """Open the folder of a run.

        Raises:
            InputError: There is no finished run.

        """
        self.path = Path(folder)
        self.headline: dict[str, Any] = read_run(self.path).summary
        """What ``summary.json`` holds."""

    @cached_property
    def config(self) -> RunConfig:
        """The settings."""
        return RunConfig.from_toml(self.path / "config.toml")

    @cached_property
    def summary(self) -> "pandas.DataFrame":
        """A row for each client model, by its label: mean accuracy over clients and its spread.

        Of the clients that took part in training, on their own test images; the columns are those
        of ``summary.json``: shares of 1.
        """
        need("pandas", "fedadapt.Run")
        import pandas

        table = pandas.DataFrame.from_dict(self.headline["accuracy"], orient="index")
        return table.rename_axis("label")

    @cached_property
    def evaluations(self) -> "pandas.DataFrame":
        """A row for each client, model, adaptation, test set and round: ``results.ROW``."""
        return load_evaluations(self.path, rounds="all")

    @cached_property
    def clients(self) -> "pandas.DataFrame":
        """A row for each client at the end: who it is, and its accuracy with each client model.

        On its own test images; where there are tasks, the mean over them.
        """
        rows = self.evaluations
        last = rows["round"] == self.headline["evaluated_round"]
        rows = rows[last & (rows["split"] == "test") & (rows["epoch"] == 0)]
        table = rows.pivot_table(
            index="client", columns="label", values="accuracy", aggfunc="mean", sort=True
        )
        about = rows.drop_duplicates("client")[OF_CLIENTS].set_index("client")
        labels = [label for label in self.headline["accuracy"] if label in table]
        return about.join(table[labels]).sort_index()

    @cached_property
    def communication(self) -> "pandas.DataFrame":
        """A row for each message: its bytes down and up, and what became of it."""
        return self._table("communication")

    @cached_property
    def losses(self) -> "pandas.DataFrame":
        """The training loss of each round."""
        return self._table("losses")

    @property
    def figures(self) -> "dict[str, Figure]":
        """The figures of the report, drawn anew, by name: of matplotlib."""
        from fedadapt.simulations.report.paper_figures import figures_of
        from fedadapt.simulations.results.run_folder import RunFolder

        return figures_of(RunFolder.read(self.path))

    @property
    def report(self) -> Path:
        """The report page, which any browser shows."""
        return self.path / "report.html"

    def load(
        self,
        client: int | None = None,
        adaptation: str = "none",
        model: str | None = None,
        task: int | None = None,
    ) -> "nn.Module":
        """Load one of the saved models; see ``fedadapt.load``."""
        from fedadapt.saved_models.load import load

        return load(self.path, client, adaptation, model, task)

    def _table(self, name: str) -> "pandas.DataFrame":
        need("pandas", "fedadapt.Run")
        import pandas

        return pandas.read_parquet(self.path / f"{name}.parquet")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """Return the table and the picture, for a notebook."""
        facts = self.headline
        title = f"{facts['strategy']} {facts['strategy_args']}".strip()
        heading = f"<p><b>{escape(title)}</b> on {escape(facts['benchmark'])}: "
        heading += f"{facts['clients_evaluated']} clients, {facts['evaluated_round']} rounds; "
        heading += f"<code>{escape(str(self.path))}</code></p>"
        shown = ["mean", "std", "worst10", "gain", "share_worse", "over_local", "num_clients"]
        table = self.summary[shown].to_html(float_format=lambda value: f"{value:.4f}", na_rep="-")
        picture = self.path / "gain.png"
        if not picture.is_file():
            return heading + table
        data = base64.b64encode(picture.read_bytes()).decode()
        alt = "Accuracy of each client before and after, and what each gains"
        return f'{heading}{table}<img alt="{alt}" src="data:image/png;base64,{data}">'
