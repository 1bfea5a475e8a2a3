"""Finished runs as one table of pandas, for what our own tables do not answer.

>>> from fedadapt.results import load
>>> table = load(["runs/compare-mnist"])                                            # doctest: +SKIP
>>> table[table.split == "test"].groupby(["strategy", "label"]).accuracy.mean()     # doctest: +SKIP
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fedadapt.config import RunConfig
from fedadapt.errors import need
from fedadapt.records import Evaluation
from fedadapt.simulations.results.comparison import differing, settings_of
from fedadapt.simulations.results.parquet import table_rows
from fedadapt.simulations.studies.made_runs import read_run, run_folders

if TYPE_CHECKING:
    import pandas

RUN = {
    "run": "folder of the run",
    "strategy": "as it was named",
    "strategy_args": "its arguments, as they were given",
    "benchmark": "data set and how it is spread",
    "network": "the setting `model` of the run",
    "seed": "of the run",
}
"""Columns of a run; after them comes one for each setting that is not the same in all runs."""

ROW = {
    "round": "0 is before training",
    "client": "from 0; -1: one model that all share, tried once on the global test",
    "kind": "the client's domain, class pair, ...",
    "seen": "took part in training",
    "model": "`local`, `base`, `personal`, `served`; with `best-round` `best-base`, ...",
    "adaptation": "`none`, `adabn`, ...",
    "label": "both: `base`, `personal+fine-tune`: the rows of our tables",
    "split": "`test`, `global`; `adapt`, `held-out`: what models may be chosen by",
    "epoch": "of a local adaptation, where it was looked at on the way; 0: at its end",
    "task": "of a task-incremental benchmark, from 0",
    "num_examples": "images in this test",
    "accuracy": "in [0, 1]",
    "balanced_accuracy": "mean recall over classes",
    "f1": "mean F1 score over classes",
    "auc": "mean area under the ROC curve, each class against the rest; NaN of one class",
    "loss": "mean cross-entropy, nats",
}
"""Columns of an evaluation: one client x model x adaptation x test set."""


def load(
    folders: str | Path | Sequence[str | Path], rounds: Literal["last", "all"] = "last"
) -> "pandas.DataFrame":
    """Return every evaluation of finished runs, a row each.

    Its columns are those of ``RUN``, one for each setting that is not the same in all runs, by its
    key, and those of ``ROW``. What the runs have in common is in ``DataFrame.attrs["settings"]``.

    Args:
        folders: Of runs; one that is none stands for the runs directly below it.
        rounds: The last evaluated round of each run, or all of them.

    Raises:
        InputError: A folder holds no finished run, or pandas is not installed.

    """
    need("pandas", "fedadapt.results.load")
    import pandas

    given = [folders] if isinstance(folders, str | Path) else folders
    runs = [read_run(folder) for folder in run_folders([Path(folder) for folder in given])]
    settings = [settings_of(run.summary) for run in runs]
    own = {"benchmark", "model"}  # columns of every table
    varying = [key for key in differing(settings) if key not in own]
    defaults = RunConfig().to_mapping()
    tables = []
    for run, of_run in zip(runs, settings, strict=True):
        rows = table_rows(run.folder, Evaluation)
        table = pandas.DataFrame.from_records(rows, columns=Evaluation._fields)
        if rounds == "last":
            table = table[table["round"] == run.summary["evaluated_round"]]
        bare = table["adaptation"] == "none"
        table = table.assign(
            label=table["model"].where(bare, table["model"] + "+" + table["adaptation"]),
            run=str(run.folder),
            strategy=run.summary["strategy"],
            strategy_args=run.summary.get("strategy_args", ""),
            benchmark=run.summary["benchmark"],
            network=run.summary["model"],
            seed=run.summary["seed"],
            **{key: of_run.get(key, defaults[key]) for key in varying},
        )
        tables.append(table[[*RUN, *varying, *ROW]])
    found = pandas.concat(tables, ignore_index=True)
    found.attrs["settings"] = {k: v for k, v in settings[0].items() if k not in varying}
    return found
