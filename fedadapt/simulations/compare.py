"""Several runs on the same clients, and the table of all of them. No torch until one is run."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fedadapt.config import RUNNING, RunConfig
from fedadapt.errors import InputError
from fedadapt.files import user_path
from fedadapt.simulations.check import check
from fedadapt.simulations.results.new_folder import new_folder
from fedadapt.simulations.studies.runs_left import RunsLeft
from fedadapt.simulations.studies.space import Axis, Point, applied, axes_of, grid
from fedadapt.simulations.studies.tuned import TRIALS, Tuned

if TYPE_CHECKING:
    from fedadapt.simulations.results.comparison import Table
    from fedadapt.simulations.studies.made_runs import MadeRun

NOT_OF_LOCAL = (frozenset(RUNNING) - {"rounds"}) | {
    *("strategy", "strategy-args", "batch-norm", "adapt", "adapt-args", "evaluate-every"),
    *("curves", "serve", "confidence", "early-stopping", "best-round"),
    "max-update-norm",
}
"""Settings that training alone does not depend on."""


def folder_of(base: RunConfig, out: Path | None, what: str = "compare") -> Path:
    """Where the runs go; one that is there already is gone on with."""
    if out is not None:
        return user_path(out, "out")
    name = re.sub(r"[^\w.-]+", "-", base.benchmark)
    return Path("runs") / f"{what}-{name}"


def plan(
    base: RunConfig,
    strategies: str,
    seeds: str,
    folder: Path,
    sweep: Sequence[Axis] = (),
    tuned: Tuned | None = None,
) -> list[RunConfig]:
    """One configuration for each strategy, point of the sweep and seed, each with its folder.

    Args:
        sweep: Listed values of settings, and of arguments of strategies and adaptations.
        tuned: What was chosen for each strategy before.

    Raises:
        InputError: a malformed list, something given twice, or a seed that settings were tuned on.

    """
    wanted = listed(strategies)
    numbers = seed_numbers(seeds)
    if tuned is not None and (used := sorted({*numbers} & {*tuned.seeds})):
        raise InputError(
            f"seeds: settings were tuned on {used[0]}; report others than {tuned.seeds}"
        )
    runs = []
    for text in wanted:
        name, _, arguments = text.partition(" ")
        config = replace(base, strategy=name, strategy_args=arguments.strip())
        if tuned is not None:
            config = applied(config, tuned.choice_for(text, "the file of tuned settings").point)
        for point in grid(axes_of(sweep, name, config), "sweep"):
            at = applied(config, point)
            word = "-".join([_folder_name(text), *_words(point)])
            runs += [replace(at, seed=n, out=str(folder / f"{word}-seed{n}")) for n in numbers]
    return runs


def listed(strategies: str) -> list[str]:
    """Return the strategies of a list with semicolons, each with its arguments.

    Raises:
        InputError: There is none, or one is there twice.

    """
    wanted = [text.strip() for text in strategies.split(";") if text.strip()]
    if not wanted:
        raise InputError("strategies: nothing given; separate strategies by ';'")
    _refuse_twice("strategies", [_folder_name(text) for text in wanted])
    return wanted


def seed_numbers(seeds: str) -> list[int]:
    """Return the seeds of a list with commas.

    Raises:
        InputError: It is malformed, or one is there twice.

    """
    try:
        numbers = [int(text) for text in seeds.split(",")]
    except ValueError:
        raise InputError(f"seeds: {seeds!r}; give whole numbers separated by commas") from None
    _refuse_twice("seeds", [str(number) for number in numbers])
    return numbers


def _refuse_twice(what: str, words: Sequence[str]) -> None:
    for word, count in Counter(words).items():
        if count > 1:
            raise InputError(f"{what}: {word} is given twice")


def _folder_name(text: str) -> str:
    return re.sub(r"[^\w.=-]+", "-", text)


def _words(point: Point) -> list[str]:
    return [_folder_name(f"{name}={value}") for name, value in point.items()]


def check_all(runs: Sequence[RunConfig], given_keys: Sequence[str]) -> None:
    """Check every run; a setting that was given must be of use to at least one of them.

    Raises:
        InputError: see ``check``.

    """
    refused: list[InputError] = []
    for run in runs:
        check(run, ())
        try:
            check(run, given_keys)
        except InputError as error:
            refused.append(error)
    if len(refused) == len(runs):
        raise refused[0]


def carry_out(
    runs: Sequence[RunConfig],
    folder: Path,
    console: Console,
    tuned: Tuned | None = None,
    metrics: Sequence[str] = (),
) -> tuple["Table", tuple[Path, ...]]:
    """Run what is not there yet; the table, and the files it was written to."""
    from fedadapt.simulations.report.study.page import write_study
    from fedadapt.simulations.results.parquet import put
    from fedadapt.simulations.results.table_formats import write_comparison
    from fedadapt.simulations.studies.made_runs import read_run
    from fedadapt.simulations.studies.study_of_runs import study_of_runs
    from fedadapt.simulations.studies.table import table_of

    made: list[MadeRun] = []
    left = RunsLeft(runs)
    for number, config in enumerate(runs, 1):
        about = left.begin(config)
        console.out(  # as it is: no markup in paths
            f"run {number} of {len(runs)}: {config.strategy} {config.strategy_args} "
            f"seed {config.seed} -> {config.out}{about}",
            highlight=False,
        )
        alone = next((Path(r.out) for r in runs[: number - 1] if same_alone(r, config)), None)
        left.made(finished(config, console, alone, left=left))
        made.append(read_run(Path(config.out)))
    table = table_of(made, metrics)
    files: tuple[Path, ...] = ()
    if tuned is not None:
        table = replace(table, notes=(*table.notes, tuned.note))
        files = (put(folder / TRIALS, tuned.trials_as_csv().encode()),)
    page = write_study(folder, study_of_runs(table, made, folder))
    return table, (*write_comparison(folder, table), *files, page)


def same_alone(one: RunConfig, other: RunConfig) -> bool:
    """Return whether clients that train alone do the same in both runs, on the same data."""
    if not (one.local and other.local):
        return False
    values = one.to_mapping(), other.to_mapping()
    return all(values[0][key] == values[1][key] for key in values[0] if key not in NOT_OF_LOCAL)


def finished(
    config: RunConfig,
    console: Console,
    alone: Path | None = None,
    watch: Callable[[int, float], None] | None = None,
    *,
    pictures: bool = True,
    left: RunsLeft | None = None,
) -> dict[str, object]:
    """The summary of the run in ``config.out``, which is begun or gone on with where it must be.

    Args:
        alone: The folder of a run whose clients, when they train alone, do the same.
        watch: Is told the score of each round on adapt images; see ``Federation``.
        pictures: Draw them, and write the report.
        left: The runs of the study that it is one of; its progress tells how long all take.

    Raises:
        InputError: the folder holds a run with other settings.

    """
    from fedadapt.simulations.results.summary import read_summary
    from fedadapt.simulations.run import simulate

    folder = Path(config.out)
    begun = (folder / "config.toml").exists()
    if begun:
        _same(RunConfig.from_toml(folder / "config.toml"), config, folder)
    if begun and (folder / "summary.json").exists():
        summary = read_summary(folder)
        if summary.get("evaluated_round", config.rounds) == config.rounds:
            return summary  # else it is of a run that has grown and was cut off on the way
    begun = begun and (folder / "checkpoint").exists()
    if not begun:
        new_folder(config)
    return simulate(
        config,
        folder,
        resume=begun,
        console=console,
        alone=alone,
        watch=watch,
        pictures=pictures,
        left=left,
    )


def _same(saved: RunConfig, now: RunConfig, folder: Path) -> None:
    if saved.experiment != now.experiment or saved.rounds != now.rounds:
        before, after = saved.to_mapping(), now.to_mapping()
        keys = [k for k in before if before[k] != after[k] and k != "out"]
        raise InputError(
            f"out: {folder} holds a run with other settings ({', '.join(keys)}); name another --out"
        )
