"""Carry out an experiment of DUA: its runs, then their table and picture."""

from pathlib import Path
from typing import Any

from rich.console import Console

from fedadapt.errors import InputError, unknown
from fedadapt.files import user_path
from fedadapt.reproductions.dua.plan import EXPERIMENTS, Experiment, base_config
from fedadapt.reproductions.options import OVERRIDES, Options, numbers, overrides
from fedadapt.simulations.studies.runs_left import RunsLeft

TRAINING = ("epochs", "batch_size", "lr")
OPTIONS = frozenset(
    {
        *OVERRIDES,
        *TRAINING,
        "rounds",
        "table",
        "figure",
        "preset",
        "seeds",
        "draws",
        "experts",
        "out",
        "figures",
    }
) - {"local_epochs"}  # users do not train
FIGURES = ("3",)


def reproduce(name: str, options: Options) -> None:
    """Carry out an experiment of DUA.

    Raises:
        InputError: no such table or figure, bad settings, missing data or weights.

    """
    wanted, folder = experiment(name, options)
    if options.get("figure", FIGURES[0]) not in FIGURES:
        raise unknown("figure", options["figure"], FIGURES)
    if "figure" in options:
        correlation(wanted, folder)
    elif wanted.table == "1":
        from fedadapt.reproductions.dua.traits import table
        from fedadapt.reproductions.publishing import show

        show([table(wanted)])
    else:
        run(wanted, folder, figures="figures" in options)


def experiment(name: str, options: Options) -> tuple[Experiment, Path]:
    """Return the experiment that the options describe, and the folder of its runs."""
    usual = EXPERIMENTS[name]
    table, preset = options.get("table", usual.table), options.get("preset", "paper")
    base = base_config(name, table, preset, overrides(options) | _rounds(options))
    default = Path("runs") / f"reproduce-{name}" / f"{base.model}-{preset}".replace(":", "-")
    folder = user_path(options.get("out", default), "out")
    wanted = Experiment(
        name=name,
        table=table,
        base=base,
        preset=preset,
        seeds=numbers(options["seeds"], "seeds") if "seeds" in options else usual.seeds,
        draws=numbers(options["draws"], "draws") if "draws" in options else usual.draws,
        training={option: options[option] for option in TRAINING if option in options},
        experts=user_path(options.get("experts", folder / "experts"), "experts"),
    )
    return wanted, folder


def _rounds(options: Options) -> dict[str, Any]:
    """Return the number of rounds, if given; one is a task, and fewer take the first tasks."""
    if "rounds" not in options:
        return {}
    if not str(options["rounds"]).isdecimal():
        raise InputError(
            f"rounds: {options['rounds']!r}; DUA learns a task a round: give a whole number"
        )
    return {"rounds": int(options["rounds"])}


def run(wanted: Experiment, folder: Path, *, figures: bool = False) -> None:
    """Carry out the unfinished runs of a table, then write the table and its picture."""
    from fedadapt.simulations.check import check
    from fedadapt.simulations.compare import finished

    console = Console(stderr=True)
    runs = list(wanted.runs(folder))
    for each in runs:
        check(each.config)
    summaries: list[dict[str, Any]] = []
    left = RunsLeft([each.config for each in runs])
    for number, (strategy, seed, draw, config) in enumerate(runs, 1):
        about = left.begin(config)
        line = f"run {number} of {len(runs)}: {strategy}, seed {seed}, draw {draw} -> {config.out}"
        console.out(f"{line}{about}", highlight=False)
        summaries.append(finished(config, console, left=left))
        left.made(summaries[-1])
    from fedadapt.reproductions.dua.picture import draw as draw_picture
    from fedadapt.reproductions.dua.results import collect
    from fedadapt.reproductions.dua.study import study
    from fedadapt.reproductions.dua.tables import grids, metadata
    from fedadapt.reproductions.publishing import publish
    from fedadapt.simulations.report.study.figures import write_study_figures
    from fedadapt.simulations.report.study.page import write_study

    results = collect(wanted, zip(runs, summaries, strict=True), folder)
    picture = draw_picture(wanted, results, folder / "reproduction.png")
    tables = list(grids(wanted, results))
    found = study(wanted, results, tables, folder)
    page = write_study(folder, found)
    drawn = write_study_figures(folder, found) if figures else []
    publish(folder, "reproduction", tables, metadata(wanted, results), (picture, *drawn, page))


def correlation(wanted: Experiment, folder: Path) -> None:
    """Make figure 3 from the first two experts, which are trained if they are missing."""
    from fedadapt.simulations.check import check

    for seed in wanted.seeds:
        check(wanted.run("mas-racl", seed, wanted.draws[0], folder).config)
    from fedadapt.reproductions.dua.correlation import correlate, draw, metadata, table
    from fedadapt.reproductions.publishing import publish

    correlations = correlate(wanted, folder)
    folder.mkdir(parents=True, exist_ok=True)
    picture = draw(wanted, correlations, folder / "figure-3.png")
    publish(folder, "figure-3", [table(wanted, correlations)], metadata(correlations), (picture,))
