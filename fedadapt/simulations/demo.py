"""The first thing to run: when is federating worth something to a client? No torch until it runs.

A hundred clients with 30 handwritten digits each, some as written, some inverted, rotated,
blurred or noisy: too few images to train on alone, too different for one model.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fedadapt.config import RunConfig
from fedadapt.records import LOCAL
from fedadapt.simulations import compare

if TYPE_CHECKING:
    from fedadapt.simulations.results.comparison import Table

SETTINGS = RunConfig(benchmark="digits-domains", examples=30)
NAMES = {
    (0, LOCAL): "Local: each client alone",
    (0, "base"): "FedAvg: one model for all",
    (0, "base+fine-tune"): "FedAvg + fine-tune",
    (1, "personal"): "PFA: a model for each group",
}
"""(which of the two runs, label): what it is called in the table and in the picture."""
TABLE, PICTURE = "demo", "demo.png"


def plan(benchmark: str, seed: int, folder: Path) -> list[RunConfig]:
    """FedAvg, whose model is also fine-tuned, and PFA: on the same clients."""
    base = replace(SETTINGS, benchmark=benchmark)
    fedavg, pfa = compare.plan(base, "fedavg; pfa", str(seed), folder)
    return [fedavg, replace(pfa, adapt="none")]


def carry_out(
    runs: Sequence[RunConfig], folder: Path, console: Console
) -> tuple["Table", tuple[Path, ...]]:
    """Run what is not there yet; the table of the four, and the files of table and picture."""
    from fedadapt.simulations.report.side_by_side import side_by_side
    from fedadapt.simulations.report.style import save_png
    from fedadapt.simulations.results.accuracies import last_accuracies
    from fedadapt.simulations.results.comparison import (
        BELOW_LOCAL,
        MB_DOWN,
        MB_UP,
        MEAN,
        OVER_LOCAL,
        WORST,
        comparison,
    )
    from fedadapt.simulations.results.parquet import read_evaluations
    from fedadapt.simulations.results.table_formats import write_comparison

    summaries = []
    for config in runs:
        console.out(f"{config.strategy} -> {config.out}", highlight=False)
        summaries.append(compare.finished(config, console))
    table = comparison(summaries, (MEAN, WORST, OVER_LOCAL, BELOW_LOCAL, MB_UP, MB_DOWN))
    strategies = ["no federation", *(config.strategy for config in runs)]
    lines = []
    for (run, label), name in NAMES.items():
        strategy = strategies[0 if label == LOCAL else run + 1]
        [line] = [n for n in table.lines if (n.strategy, n.label) == (strategy, label)]
        lines.append(line._replace(strategy=f"{runs[0].clients} clients", label=name))
    table = replace(table, lines=tuple(lines))
    accuracies = [last_accuracies(read_evaluations(Path(config.out))) for config in runs]
    values = {name: accuracies[run].by_label[label] for (run, label), name in NAMES.items()}
    colours = {name: label for (_, label), name in NAMES.items()}
    figure = side_by_side(values, colours, NAMES[0, LOCAL])
    return table, (*write_comparison(folder, table, TABLE), save_png(figure, folder / PICTURE))
