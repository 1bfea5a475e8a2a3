"""The table of a study: every run beside training alone and FedAvg + fine-tune."""

from collections.abc import Sequence
from functools import cache

from fedadapt.records import Evaluation
from fedadapt.simulations.results.accuracies import Accuracies, last_accuracies
from fedadapt.simulations.results.comparison import (
    BY_CLASS,
    CLIENTS,
    CPU,
    GAIN,
    GLOBAL,
    MB_DOWN,
    MB_UP,
    MEAN,
    OVER_LOCAL,
    UNSEEN,
    WORSE,
    WORST,
    Table,
    comparison,
)
from fedadapt.simulations.results.paired import (
    ALONE,
    FINE_TUNED,
    OVER_FINE_TUNED,
    P_FINE_TUNED,
    P_LOCAL,
    STRATEGY_LOCAL,
    beside,
)
from fedadapt.simulations.results.parquet import table_rows
from fedadapt.simulations.studies.made_runs import MadeRun

FIRST = (WORST, GAIN, WORSE, OVER_LOCAL, P_LOCAL, OVER_FINE_TUNED, P_FINE_TUNED)
REST = (UNSEEN, GLOBAL, CLIENTS, MB_UP, MB_DOWN, CPU)
ON_SCREEN = (MEAN, *BY_CLASS.values(), WORST, OVER_LOCAL, OVER_FINE_TUNED, P_FINE_TUNED)


def table_of(runs: Sequence[MadeRun], metrics: Sequence[str] = ()) -> Table:
    """Return the comparison of runs, with gains over references and the tests of them.

    Training alone is the strategy ``local`` where it is one of the runs, which may have settings of
    its own; else it is the row ``local`` of each run.

    Args:
        runs: Finished ones.
        metrics: Keys of ``BY_CLASS``, for columns beside accuracy.

    Raises:
        InputError: See ``comparison``.

    """
    summaries = [run.summary for run in runs]

    @cache
    def accuracies(place: int) -> Accuracies:
        return last_accuracies(table_rows(runs[place].folder, Evaluation))

    asked = [BY_CLASS[name] for name in metrics]
    has_strategy = any(summary["strategy"] == STRATEGY_LOCAL.strategy for summary in summaries)
    table = comparison(summaries, (MEAN, *asked, WORST, GAIN, WORSE, *REST))
    for reference in (STRATEGY_LOCAL if has_strategy else ALONE, FINE_TUNED):
        table = beside(table, summaries, accuracies, reference)
    return table.only((MEAN, *asked, *FIRST, *REST))
