"""What a comparison will run: checked, before anything is computed. No torch until the check."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedadapt.config import RunConfig
from fedadapt.errors import InputError, unknown
from fedadapt.simulations import compare as comparing
from fedadapt.simulations.run_options import config_of, given_keys
from fedadapt.simulations.studies.space import Axis, check_owners, parse_space
from fedadapt.simulations.studies.tuned import Tuned, read_tuned

SEEDS = "1,2,3"
METRICS = ("balanced-accuracy", "f1", "auc")
OF_EACH = ("strategy", "strategy_args", "seed", "out")
"""Settings that each run of a comparison has its own of."""


class Planned(NamedTuple):
    """The runs of a comparison, and where they go."""

    runs: list[RunConfig]
    folder: Path
    tuned: Tuned | None
    metrics: tuple[str, ...]


def planned(
    options: dict[str, Any],
    strategies: str | None,
    seeds: str,
    sweep: str,
    settings: Path | None,
    out: Path | None,
    metrics: Sequence[str],
) -> Planned:
    """Plan and check the runs of a comparison.

    Args:
        options: Settings of all runs by field; None: not given.
        strategies: With arguments, separated by ``;``; None: those that were tuned, or FedAvg.
        seeds: Separated by commas.
        sweep: Lists of values.
        settings: The file that ``fedadapt tune`` wrote.
        out: The folder; None: one below ``runs``.
        metrics: Keys of columns beside accuracy.

    Raises:
        InputError: One line.

    """
    check_metrics(metrics)
    keys = given_keys(options)
    tuned = read_tuned(settings) if settings is not None else None
    axes = parse_space(sweep, "sweep")
    base = base_of(options, tuned, axes)
    if strategies is None:
        strategies = "fedavg"
        if tuned is not None:
            strategies = "; ".join(choice.strategy for choice in tuned.choices)
    names = [text.split()[0] for text in comparing.listed(strategies)]
    check_owners(axes, names, base)
    if "local" in names and "local" not in keys:
        base = RunConfig.from_mapping(base.to_mapping() | {"local": False})
    folder = comparing.folder_of(base, out)
    runs = comparing.plan(base, strategies, seeds, folder, axes, tuned)
    comparing.check_all(runs, [*keys, *(axis.key for axis in axes if not axis.owner)])
    return Planned(runs, folder, tuned, tuple(metrics))


def check_metrics(metrics: Sequence[str]) -> None:
    """Refuse a column that there is not."""
    for name in metrics:
        if name not in METRICS:
            raise unknown("metrics", name, METRICS)


def base_of(options: dict[str, Any], tuned: Tuned | None, axes: tuple[Axis, ...]) -> RunConfig:
    """Return the settings that all runs have: those given, over those that they were tuned with.

    Raises:
        InputError: A setting is given that was tuned, or that is swept.

    """
    keys = given_keys(options)
    for axis in axes:
        if axis.key in keys and not axis.owner:
            raise InputError(f"{axis.key}: it is in what is tried; leave --{axis.key} out")
    if tuned is None:
        return config_of(options)
    chosen = {name for choice in tuned.choices for name in choice.point}
    for key in [*keys, *(axis.name for axis in axes)]:
        if key in chosen:
            raise InputError(f"{key}: it was tuned; leave it out, or compare without --settings")
    return config_of(options, RunConfig.from_mapping(tuned.settings, "settings"))
