"""``fedadapt reproduce``: run a paper's experiment and compare published and measured results."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import click

from fedadapt.config import RunConfig
from fedadapt.errors import InputError, unknown
from fedadapt.parameters import parameters
from fedadapt.reproductions.catalog import EXPERIMENTS
from fedadapt.reproductions.dua import command as dua_command
from fedadapt.reproductions.options import OVERRIDES, Options
from fedadapt.reproductions.pfa import command as pfa_command


class Paper(Protocol):
    """A module that reproduces the experiments of a paper."""

    OPTIONS: frozenset[str]

    def reproduce(self, name: str, options: Options) -> None: ...


PAPERS: dict[str, Paper] = {"pfa": pfa_command, "dua": dua_command}


def _overriding(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a run that may be changed, with the help of ``RunConfig``."""
    settings = parameters(RunConfig)
    for name, kind in reversed(OVERRIDES.items()):
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, name, type=kind, help=settings[name].param.help)(command)
    return command


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", metavar=f"[{'|'.join(EXPERIMENTS)}]")
@click.option("--table", help="which table of the paper, e.g. 4 (default: the experiment's)")
@click.option("--figure", help="DUA: which figure of the paper instead: 3")
@click.option("--rounds", help="PFA: federated + in groups  [50+30]; DUA: so many tasks  [all]")
@click.option("--preset", help="DUA: paper, or released: as its released code  [paper]")
@click.option("--seeds", help="separated by commas  [PFA: 1,2,3; DUA: 7,8,9, of scenes 7]")
@click.option("--draws", help="DUA: which of the users' images  [1; of scenes 1,2,3,4,5]")
@click.option("--epochs", type=int, help="DUA: an expert's training (default: the paper's)")
@click.option("--batch-size", type=int, help="DUA: the same")
@click.option("--lr", type=float, help="learning rate (default: the paper's; DUA: an expert's)")
@click.option("--strategy-args", help='PFA: of its runs in groups, e.g. "layer=8 q=100"')
@click.option("--experts", type=click.Path(), help="DUA: folder of experts (default: in --out)")
@_overriding
@click.option("--out", type=click.Path(path_type=Path), help="folder for the runs and the tables")
@click.option("--figures", is_flag=True, help="also each figure as SVG and PDF, for a paper")
def reproduce(name: str, **options: Any) -> None:
    """Run a paper's experiment and print published beside measured.

    Every run has a folder of its own: finished ones are not run again, cut-off ones are resumed.
    """
    if name not in EXPERIMENTS:
        raise unknown("reproduce", name, tuple(EXPERIMENTS))
    paper = PAPERS[name.partition("-")[0]]
    given = {option: value for option, value in options.items() if value is not None}
    chosen = {option: value for option, value in given.items() if value is not False}
    for option in chosen:
        if option not in paper.OPTIONS:
            known = ", ".join(sorted(word.replace("_", "-") for word in paper.OPTIONS))
            raise InputError(
                f"{option.replace('_', '-')}: {name} has no such option; it has {known}"
            )
    paper.reproduce(name, chosen)
