"""Several runs on the same clients, and the table of all of them. No torch until one is run."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.files import user_path
from fedadapt.simulations.check import check
from fedadapt.simulations.results.new_folder import new_folder

if TYPE_CHECKING:
    from fedadapt.simulations.results.comparison import Table


def folder_of(base: RunConfig, out: Path | None) -> Path:
    """Where the runs go; one that is there already is gone on with."""
    if out is not None:
        return user_path(out, "out")
    name = re.sub(r"[^\w.-]+", "-", base.benchmark)
    return Path("runs") / f"compare-{name}"


def plan(base: RunConfig, strategies: str, seeds: str, folder: Path) -> list[RunConfig]:
    """One configuration for each strategy and seed, each with its folder.

    Raises:
        InputError: a malformed list, or something given twice.

    """
    wanted = [text.strip() for text in strategies.split(";") if text.strip()]
    if not wanted:
        raise InputError("strategies: nothing given; separate strategies by ';'")
    try:
        numbers = [int(text) for text in seeds.split(",")]
    except ValueError:
        raise InputError(f"seeds: {seeds!r}; give whole numbers separated by commas") from None
    folders = [re.sub(r"[^\w.=-]+", "-", text) for text in wanted]
    for what, values in (("strategies", folders), ("seeds", [str(n) for n in numbers])):
        for word, count in Counter(values).items():
            if count > 1:
                raise InputError(f"{what}: {word} is given twice")
    runs = []
    for text, word in zip(wanted, folders, strict=True):
        name, _, arguments = text.partition(" ")
        for seed in numbers:
            out = str(folder / f"{word}-seed{seed}")
            runs.append(
                replace(base, strategy=name, strategy_args=arguments.strip(), seed=seed, out=out)
            )
    return runs


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
    runs: Sequence[RunConfig], folder: Path, console: Console
) -> tuple["Table", tuple[Path, ...]]:
    """Run what is not there yet; the table, and the files it was written to."""
    from fedadapt.simulations.results.comparison import comparison
    from fedadapt.simulations.results.table_formats import write_comparison

    summaries = []
    for number, config in enumerate(runs, 1):
        console.out(  # as it is: no markup in paths
            f"run {number} of {len(runs)}: {config.strategy} {config.strategy_args} "
            f"seed {config.seed} -> {config.out}",
            highlight=False,
        )
        summaries.append(finished(config, console))
    table = comparison(summaries)
    return table, write_comparison(folder, table)


def finished(config: RunConfig, console: Console) -> dict[str, object]:
    """The summary of the run in ``config.out``, which is begun or gone on with where it must be.

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
        return read_summary(folder)
    begun = begun and (folder / "checkpoint").exists()
    if not begun:
        new_folder(config)
    return simulate(config, folder, resume=begun, console=console)


def _same(saved: RunConfig, now: RunConfig, folder: Path) -> None:
    if saved.experiment != now.experiment or saved.rounds != now.rounds:
        before, after = saved.to_mapping(), now.to_mapping()
        keys = [k for k in before if before[k] != after[k] and k != "out"]
        raise InputError(
            f"out: {folder} holds a run with other settings ({', '.join(keys)}); name another --out"
        )
