"""`fedadapt compare` and `fedadapt tune`. No torch until a run begins."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from fedadapt.command_help import RunCommand
from fedadapt.errors import InputError, need
from fedadapt.files import user_path
from fedadapt.simulations import compare as comparing
from fedadapt.simulations.run_options import given_keys, prepare, run_options
from fedadapt.simulations.studies.planned import (
    OF_EACH,
    SEEDS,
    base_of,
    check_metrics,
    planned,
)
from fedadapt.simulations.studies.space import (
    applied,
    axes_of,
    check_owners,
    corners,
    parse_space,
)
from fedadapt.simulations.studies.tuned import FAILED, PRUNED, Tuned

COMPARISONS = """
fedadapt compare --strategies "fedavg; fedprox mu=0.1; pfa" --seeds 1,2,3
fedadapt compare --strategies "fedrep; ditto" --sweep "lr=0.01,0.1"
fedadapt compare --settings runs/tuned --seeds 1,2,3,4,5
fedadapt compare runs/by-hand-1 runs/by-hand-2 --out runs/both
"""
TUNINGS = """
fedadapt tune --strategies "local; ditto" --space "lr=0.01,0.1"
fedadapt compare --settings runs/tune-digits-classes --seeds 1,2,3
"""
TUNING_SEEDS = "101,102"


@click.command(cls=RunCommand, epilog=COMPARISONS)
@click.argument("folders", type=click.Path(path_type=Path), nargs=-1, metavar="[FOLDER]...")
@run_options(*OF_EACH)
@click.option(
    "--strategies",
    help='separated by ";", each with its arguments, e.g. "fedavg; fedprox mu=0.1"  [fedavg]',
)
@click.option("--seeds", help=f"seeds separated by commas  [{SEEDS}]")
@click.option(
    "--sweep",
    help='settings to compare, e.g. "lr=0.01,0.1; ditto.lam=0.1,1; benchmark=digits-classes,mnist"',
)
@click.option(
    "--settings",
    type=click.Path(path_type=Path),
    help="a tuned.toml of `fedadapt tune`: its settings, and what it chose for each strategy",
)
@click.option(
    "--metrics",
    default="",
    help="columns beside accuracy, separated by commas: balanced-accuracy, f1, auc",
)
@click.option("--out", type=click.Path(path_type=Path), help="folder for the runs and the table")
@click.option("--verbose", is_flag=True, help="log what is done and why")
def compare(
    folders: tuple[Path, ...],
    strategies: str | None,
    seeds: str | None,
    sweep: str | None,
    settings: Path | None,
    metrics: str,
    out: Path | None,
    verbose: bool,
    **options: Any,
) -> None:
    """Run strategies x settings x adaptations x seeds on the same clients; one table of all.

    Each run has a folder of its own; finished ones are not run again, cut-off ones are resumed.
    With FOLDERs nothing is run: the table is that of the finished runs in them, and is written
    where --out says.
    """
    from fedadapt.simulations.results.terminal_table import TerminalTable

    prepare(verbose)
    keys = given_keys(options)
    columns = [name.strip() for name in metrics.split(",") if name.strip()]
    check_metrics(columns)
    if folders:
        given = {"strategies": strategies, "seeds": seeds, "sweep": sweep, "settings": settings}
        keys += [name for name, value in given.items() if value is not None]
        if keys:
            raise InputError(
                f"{', '.join(keys)}: the runs in {folders[0]} are made; leave out what is for new "
                "ones"
            )
        table, files = _of_folders(folders, out, columns)
    else:
        plan = planned(options, strategies, seeds or SEEDS, sweep or "", settings, out, columns)
        table, files = comparing.carry_out(
            plan.runs, plan.folder, Console(stderr=True), plan.tuned, plan.metrics
        )
    from fedadapt.simulations.studies.table import ON_SCREEN

    Console().print(TerminalTable(table.only(ON_SCREEN)))
    for file in files:
        click.echo(file)


@click.command(cls=RunCommand, epilog=TUNINGS)
@run_options(*OF_EACH)
@click.option(
    "--strategies",
    required=True,
    help='separated by ";", each with arguments that are not tuned, e.g. "local; fedavg; ditto"',
)
@click.option(
    "--space",
    required=True,
    help='what is tried: "lr=log:1e-3..1e-1; ditto.lam=0.01,0.1,1"; settings of runs, and '
    "arguments of strategies and adaptations",
)
@click.option("--trials", default=12, help="points tried for each strategy  [12]")
@click.option(
    "--select",
    default="adapt",
    help="what settings are chosen by: accuracy on adapt images of the personal model, or of the "
    "base with the last adaptation (adapt), or of another label (adapt:base+adabn)  [adapt]",
)
@click.option("--seeds", default=TUNING_SEEDS, help=f"seeds of the trials  [{TUNING_SEEDS}]")
@click.option("--pruning/--no-pruning", default=True, help="give trials up that do badly")
@click.option("--out", type=click.Path(path_type=Path), help="folder for trials and tuned.toml")
@click.option("--verbose", is_flag=True, help="log what is done and why")
def tune(
    strategies: str,
    space: str,
    trials: int,
    select: str,
    seeds: str,
    pruning: bool,
    out: Path | None,
    verbose: bool,
    **options: Any,
) -> None:
    """Choose settings for every strategy on adapt images, by the same number of trials each.

    The result is a tuned.toml for `fedadapt compare --settings`. The same command again goes on
    with a study that was interrupted. Clients' test images play no part in it.
    """
    need("optuna", "fedadapt tune", extra="tuning")
    prepare(verbose)
    if select != "adapt" and not select.startswith("adapt:"):
        raise InputError(
            f"select: {select}; settings are chosen on adapt images: adapt, or adapt:LABEL"
        )
    if trials < 1:
        raise InputError(f"trials: {trials}; at least 1")
    axes = parse_space(space, "space")
    if not axes:
        raise InputError("space: nothing given; name what is tried, as in lr=log:1e-3..1e-1")
    base = base_of(options, None, axes)
    texts = comparing.listed(strategies)
    check_owners(axes, [text.split()[0] for text in texts], base)
    folder = comparing.folder_of(base, out, "tune")
    numbers = tuple(comparing.seed_numbers(seeds))
    given = [*given_keys(options), *(axis.key for axis in axes if not axis.owner)]
    for_all = [
        applied(replace(base, strategy=name, strategy_args=arguments.strip(), seed=numbers[0]), at)
        for name, _, arguments in (text.partition(" ") for text in texts)
        for at in corners(axes_of(axes, name, base))
    ]
    comparing.check_all(for_all, given)
    from fedadapt.simulations.studies.tune import Tuning

    study = Tuning(base, axes, space, trials, numbers, select, pruning, _made(folder))
    tuned = study.run(texts, Console(stderr=True))
    files = tuned.write(folder)
    Console().print(_chosen(tuned))
    for file in files:
        click.echo(file)


def _chosen(tuned: Tuned) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("strategy", "chosen", "on adapt images, %", "trials", "pruned", "failed"):
        table.add_column(head, justify="left" if head in ("strategy", "chosen") else "right")
    for choice in tuned.choices:
        states = Counter(trial.state for trial in choice.trials)
        chosen = ", ".join(f"{name}={value}" for name, value in choice.point.items())
        score = f"{100 * choice.score:.2f}"
        counts = (len(choice.trials), states[PRUNED], states[FAILED])
        table.add_row(choice.strategy, chosen, score, *map(str, counts))
    return table


def _of_folders(folders: tuple[Path, ...], out: Path | None, metrics: list[str]) -> Any:
    from fedadapt.simulations.report.study.page import write_study
    from fedadapt.simulations.results.table_formats import write_comparison
    from fedadapt.simulations.studies.made_runs import read_run, run_folders
    from fedadapt.simulations.studies.study_of_runs import study_of_runs
    from fedadapt.simulations.studies.table import table_of

    runs = [read_run(folder) for folder in run_folders(folders)]
    table = table_of(runs, metrics)
    if out is None:
        return table, ()
    made = _made(user_path(out, "out"))
    page = write_study(made, study_of_runs(table, runs, made))
    return table, (*write_comparison(made, table), page)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: {folder}: {error.strerror}") from None
    return folder
