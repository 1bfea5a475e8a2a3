"""The options of a run on the command line, and the settings made of them. No torch."""

import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click
from rich.console import Console
from rich.logging import RichHandler

from fedadapt.client.adaptations.registry import ADAPTATIONS
from fedadapt.config import RunConfig
from fedadapt.datasets.registry import BENCHMARKS, defaults_of_owned
from fedadapt.datasets.task_incremental.task_entries import TASK_ENTRIES, defaults_of_tasks
from fedadapt.errors import InputError
from fedadapt.models.registry import NETWORKS
from fedadapt.parameters import parameters
from fedadapt.simulations.tracking.registry import TRACKERS
from fedadapt.strategies.registry import STRATEGIES

NAMES: dict[str, Callable[[], Iterable[str]]] = {
    "strategy": STRATEGIES.names,
    "adapt": ADAPTATIONS.names,
    "model": NETWORKS.names,
    "benchmark": lambda: (*BENCHMARKS.names(), *(entry.name for entry in TASK_ENTRIES)),
    "track": TRACKERS.names,
}
"""Settings whose values have names, which the shell completes."""
LISTS = ("adapt", "track")

KINDS: dict[Any, Any] = {int: click.INT, float: click.FLOAT, str: click.STRING, bool: click.BOOL}


def run_options(*left_out: str) -> Callable[[Any], Any]:
    """One option for each key of ``RunConfig``; None where not given."""

    def add(command: Any) -> Any:
        for setting in reversed(parameters(RunConfig).values()):
            if setting.name in left_out:
                continue
            kind: Any = KINDS[setting.scalar]
            if setting.param.choices:
                kind = click.Choice(setting.param.choices)
            name = f"--{setting.key}"
            if setting.scalar is bool:
                name = f"--{setting.key}/--no-{setting.key}"
            shown = setting.param.help + (f"  [{setting.shown}]" if setting.shown else "")
            completed = names_of(setting.name) if setting.name in NAMES else None
            command = click.option(
                name,
                setting.name,
                type=kind,
                default=None,
                help=shown,
                shell_complete=completed,
            )(command)
        return command

    return add


def names_of(setting: str) -> Callable[[Any, Any, str], Any]:
    """Return what completes the names of a setting in the shell, of a list the last one."""

    def complete(context: Any, parameter: Any, begun: str) -> list[str]:
        before, comma, word = begun.rpartition(",") if setting in LISTS else ("", "", begun)
        names = sorted(NAMES[setting]())
        return [f"{before}{comma}{name}" for name in names if name.startswith(word)]

    return complete


def given_keys(options: dict[str, Any]) -> list[str]:
    """The keys that were given on the command line."""
    return [name.replace("_", "-") for name, value in options.items() if value is not None]


def config_of(options: dict[str, Any], saved: RunConfig | None = None) -> RunConfig:
    """The settings given, on top of a saved run's or the defaults."""
    base = saved.to_mapping() if saved else {}
    chosen = {k.replace("_", "-"): v for k, v in options.items() if v is not None}
    if saved is None:
        chosen = defaults_of_tasks(chosen) | defaults_of_owned(chosen) | chosen
    try:
        return RunConfig.from_mapping(base | chosen)
    except InputError as error:
        raise InputError(str(error).removeprefix("run config: ")) from None


def prepare(verbose: bool) -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")  # module:Class and module:factory of the folder one works in
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
