"""``fedadapt reproduce``: a paper's experiment on this machine, published beside measured."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fedadapt.config import RunConfig
from fedadapt.errors import InputError, unknown
from fedadapt.reproductions.catalog import EXPERIMENTS
from fedadapt.reproductions.pfa_plan import PER_CLIENT, Experiment, Rounds, experiment

OVERRIDES = {
    "model": str, "weights": str, "normalization": str, "devices": int, "local_epochs": int,
    "image_size": int, "data_root": str, "device": str, "workers": int,
}  # fmt: skip


def _overriding(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a run that may be changed, with the run's own help."""
    fields = RunConfig.__dataclass_fields__
    for name, kind in reversed(OVERRIDES.items()):
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, name, type=kind, help=fields[name].metadata["help"])(command)
    return command


@click.command()
@click.argument("name", metavar=f"[{'|'.join(EXPERIMENTS)}]")
@click.option("--table", default="", help="which table of the paper, e.g. 4 (default: the first)")
@click.option("--rounds", default="50+30", help="federated + in groups  [50+30]")
@click.option("--seeds", default="1,2,3", help="seeds separated by commas  [1,2,3]")
@_overriding
@click.option("--out", type=click.Path(path_type=Path), help="folder for the runs and the tables")
def reproduce(
    name: str, table: str, rounds: str, seeds: str, out: Path | None, **given: Any
) -> None:
    """Run a paper's experiment and print published beside measured.

    Every run has a folder of its own: finished ones are not run again, cut-off ones are resumed.
    """
    if name not in EXPERIMENTS:
        raise unknown("reproduce", name, tuple(EXPERIMENTS))
    wanted = experiment(name, table)
    changed = {key: value for key, value in given.items() if value is not None}
    wanted = replace(wanted, base=replace(wanted.base, **changed), rounds=Rounds.parse(rounds))
    if not wanted.base.weights and wanted.base.model.startswith("mobilenetv2-0.25"):
        raise InputError("weights: give a file of ImageNet weights of MobileNetV2 0.25 (d-li14's)")
    folder = (out or Path("runs") / f"reproduce-{name}" / wanted.base.model).expanduser()
    run(wanted, _numbers(seeds), folder, per_client=table in PER_CLIENT)


def run(wanted: Experiment, seeds: list[int], folder: Path, *, per_client: bool = False) -> None:
    """Do what is left of an experiment; then its tables and its picture."""
    from fedadapt.simulations.checking import check
    from fedadapt.simulations.comparing import finished

    console = Console(stderr=True)
    for seed in seeds:
        for name, config in wanted.runs(seed, folder):
            check(config)
            line = f"seed {seed}, {name}: {config.rounds} rounds -> {config.out}"
            console.out(line, highlight=False)
            finished(config, console)
    from fedadapt.files import write_atomically
    from fedadapt.reproductions.pfa_picture import draw
    from fedadapt.reproductions.pfa_results import collect
    from fedadapt.reproductions.pfa_tables import grids

    results = collect(wanted, seeds, folder)
    tables = list(grids(wanted, results, per_client=per_client))
    printed = Console()
    if not printed.is_terminal:
        printed = Console(width=160)  # a log can be as wide as it takes
    for table in tables:
        printed.print(table.to_rich(), "")
    text = "\n".join(table.to_markdown() for table in tables)
    write_atomically(folder / "reproduction.md", text.encode())
    measured = {
        method: {rule: values.tolist() for rule, values in rules.items()}
        for method, rules in results.accuracy.items()
    }
    facts = {"seeds": seeds, "kinds": results.kinds, "accuracy": measured, "groups": results.groups}
    write_atomically(folder / "reproduction.json", json.dumps(facts).encode())
    click.echo(draw(wanted, results, folder / "reproduction.png"))
    click.echo(folder / "reproduction.md")


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise InputError(f"seeds: {text!r}; give different whole numbers separated by commas")
    return numbers
