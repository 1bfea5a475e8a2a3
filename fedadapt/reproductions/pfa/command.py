"""Carry out an experiment of PFA: its runs, then their tables and picture."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fedadapt.errors import InputError
from fedadapt.files import user_path
from fedadapt.reproductions.options import OVERRIDES, Options, numbers, overrides
from fedadapt.reproductions.pfa.plan import PER_CLIENT, Experiment, Rounds, experiment
from fedadapt.simulations.studies.runs_left import RunsLeft
from fedadapt.strategies.registry import select

SETTINGS = ("lr", "strategy_args")  # settings of the runs, beside those in ``OVERRIDES``
OPTIONS = frozenset({*OVERRIDES, *SETTINGS, "table", "rounds", "seeds", "out", "figures"})


def reproduce(name: str, options: Options) -> None:
    """Carry out an experiment of PFA.

    Raises:
        InputError: no such table, bad settings, missing data or weights.

    """
    table = options.get("table", "")
    wanted = experiment(name, table)
    rounds = Rounds.parse(options.get("rounds", "50+30"))
    settings = overrides(options) | {name: options[name] for name in SETTINGS if name in options}
    wanted = replace(wanted, base=replace(wanted.base, **settings), rounds=rounds)
    _check_arguments(wanted)
    if not wanted.base.weights and wanted.base.model.startswith("mobilenetv2-0.25"):
        raise InputError("weights: give a file of ImageNet weights of MobileNetV2 0.25 (d-li14's)")
    folder = options.get("out") or Path("runs") / f"reproduce-{name}" / wanted.base.model
    seeds = numbers(options.get("seeds", "1,2,3"), "seeds")
    run(
        wanted,
        seeds,
        user_path(folder, "out"),
        per_client=table in PER_CLIENT,
        figures="figures" in options,
    )


def _check_arguments(wanted: Experiment) -> None:
    """Check PFA's arguments before the federated model is trained."""
    for name, config in wanted.runs(0, Path()):
        if name != "federated":
            select(replace(config, weights="federated"))


def run(
    wanted: Experiment,
    seeds: Sequence[int],
    folder: Path,
    *,
    per_client: bool = False,
    figures: bool = False,
) -> None:
    """Carry out the unfinished runs of an experiment, then write its tables and its picture."""
    from fedadapt.reproductions.pfa.results import collect, finds_the_same_groups
    from fedadapt.simulations.check import check
    from fedadapt.simulations.compare import finished

    console = Console(stderr=True)
    of_seed = {seed: dict(wanted.runs(seed, folder)) for seed in seeds}
    left = RunsLeft([config for runs in of_seed.values() for config in runs.values()])
    for seed, runs in of_seed.items():
        for name, config in runs.items():
            begun = (Path(config.out) / "config.toml").exists()
            if name == "found" and not begun and finds_the_same_groups(runs["pfa"]):
                console.out(f"seed {seed}, {name}: the groups are those given, so is all the rest")
                continue
            check(config)  # here, because a later run starts from the weights of an earlier one
            about = left.begin(config)
            line = f"seed {seed}, {name}: {config.rounds} rounds -> {config.out}{about}"
            console.out(line, highlight=False)
            left.made(finished(config, console, left=left))
    from fedadapt.reproductions.pfa.picture import draw
    from fedadapt.reproductions.pfa.study import study
    from fedadapt.reproductions.pfa.tables import grids
    from fedadapt.reproductions.publishing import publish
    from fedadapt.simulations.report.study.figures import write_study_figures
    from fedadapt.simulations.report.study.page import write_study

    results = collect(wanted, seeds, folder)
    measured = {
        method: {rule: values.tolist() for rule, values in rules.items()}
        for method, rules in results.accuracy.items()
    }
    metadata = {
        "seeds": list(seeds),
        "kinds": results.kinds,
        "accuracy": measured,
        "groups": results.groups,
    }
    tables = list(grids(wanted, results, per_client=per_client))
    picture = draw(wanted, results, folder / "reproduction.png")
    found = study(wanted, results, tables, folder)
    page = write_study(folder, found)
    drawn = write_study_figures(folder, found) if figures else []
    publish(folder, "reproduction", tables, metadata, (picture, *drawn, page))
