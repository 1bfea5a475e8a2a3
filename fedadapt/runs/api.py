"""``fedadapt.simulate`` and ``fedadapt.compare``."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fedadapt.runs.comparison import Comparison
from fedadapt.runs.console import console
from fedadapt.runs.run import Run
from fedadapt.runs.start import start
from fedadapt.runs.words import arguments, options_of, path_of
from fedadapt.simulations import compare as comparing
from fedadapt.simulations.studies.planned import OF_EACH, SEEDS, planned

Strategies = str | type | Iterable["str | type | tuple[str | type, Mapping[str, Any]]"]


def simulate(*, resume: str | Path | None = None, progress: bool = True, **settings: Any) -> Run:
    """Train, personalise and evaluate on simulated clients; the finished run.

    The same as ``fedadapt simulate``, and the same errors. Settings are those of docs/
    configuration.md with underscores; a class stands for its ``module:Class``, a dictionary for
    arguments, a list for what is separated by commas:

    >>> run = fedadapt.simulate(                                        # doctest: +SKIP
    ...     strategy="ditto", strategy_args={"lam": 0.5}, rounds=5, adapt=["none", "adabn"]
    ... )

    Args:
        resume: The folder of a run to go on with; settings are then those that it has.
        progress: Show how far the run is: on the terminal, or below the cell of a notebook.
        settings: Of the run; None stands for the default.

    Raises:
        InputError: An unknown setting, or one that cannot work; one line, before any work.
        FedadaptError: The run ended early; docs/reliability.md lists how.

    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    options = options_of(settings, "simulate")
    begun = start(options, None if resume is None else Path(resume))
    begun.carry_out(console(progress=progress))
    return Run(begun.folder)


def compare(
    strategies: Strategies = "fedavg",
    *,
    seeds: str | int | Iterable[int] = SEEDS,
    sweep: str | Mapping[str, Iterable[Any]] = "",
    tuned: str | Path | None = None,
    metrics: Iterable[str] = (),
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Comparison:
    """Run strategies x settings x seeds on the same clients; the table of all.

    The same as ``fedadapt compare``: finished runs are not run again, cut-off ones are resumed.

    >>> fedadapt.compare(                                               # doctest: +SKIP
    ...     ["fedavg", ("fedprox", {"mu": 0.1})], seeds=[1, 2], sweep={"lr": [0.01, 0.1]}, rounds=5
    ... )

    Args:
        strategies: Names with their arguments, as on the command line; or a list of names,
            classes, and pairs of either with a dictionary of arguments.
        seeds: Each is another draw of clients, weights and batches.
        sweep: Lists of values by setting, or by ``strategy.argument``.
        tuned: A ``tuned.toml`` of ``fedadapt tune``.
        metrics: ``balanced-accuracy``, ``f1``, ``auc``: columns beside accuracy.
        out: Folder for the runs and the table.
        progress: Show how far the runs are.
        settings: Of all runs.

    Raises:
        InputError: See ``simulate``.

    """
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    options = options_of(settings, "compare", OF_EACH)
    plan = planned(
        options,
        _strategies(strategies),
        seeds if isinstance(seeds, str) else ",".join(map(str, _listed(seeds))),
        sweep if isinstance(sweep, str) else _sweep(sweep),
        None if tuned is None else Path(tuned),
        None if out is None else Path(out),
        tuple(metrics),
    )
    shown = console(progress=progress) or Console(quiet=True)
    table, _ = comparing.carry_out(plan.runs, plan.folder, shown, plan.tuned, plan.metrics)
    return Comparison(plan.folder, table, [Path(run.out) for run in plan.runs])


def _listed(values: Any) -> list[Any]:
    return list(values) if isinstance(values, Iterable) else [values]


def _strategies(given: Any) -> str:
    """Return strategies as the command line has them: with their arguments, separated by ``;``."""
    if isinstance(given, str):
        return given
    texts = []
    for one in [given] if isinstance(given, type) else given:
        strategy, values = one if isinstance(one, tuple) else (one, {})
        name = strategy if isinstance(strategy, str) else path_of(strategy, "strategies")
        texts.append(f"{name} {arguments(values, 'strategies')}".strip())
    return "; ".join(texts)


def _sweep(lists: Mapping[str, Iterable[Any]]) -> str:
    """``{"local_epochs": [1, 5]}`` -> ``local_epochs=1,5``."""
    return "; ".join(f"{name}={','.join(map(str, _listed(of)))}" for name, of in lists.items())
