"""The experiments of DUA: their runs, and the run and model of each row. No torch."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from fedadapt.config import RunConfig
from fedadapt.datasets.task_incremental.task_entries import find_tasks
from fedadapt.errors import unknown
from fedadapt.models.registry import find_network
from fedadapt.reproductions.dua.published import ADAPTATIONS, PUBLISHED, Key, Score


class Source(NamedTuple):
    """The strategy and the model of its run that measure a method of the paper."""

    strategy: str
    model: str


METHODS: dict[str, Source] = {
    "MAS-RACL": Source("mas-racl", "personal"),
    "MAS-IMM": Source("mas-racl", "base"),
    "FIM-RACL": Source("fim-racl", "personal"),
    "FIM-IMM": Source("fim-racl", "base"),
    "Task Experts": Source("task-experts", "base"),
    "MAS": Source("mas", "base"),
    "EWC": Source("ewc", "base"),
    "LwF": Source("lwf", "base"),
    "Joint": Source("joint", "base"),
}
"""By the paper's name. A run of RACL measures IMM too: it is the run's base model."""

TABLES: dict[str, tuple[str, ...]] = {
    "1": (),  # it needs no runs
    "2": ("MAS-IMM", "FIM-IMM"),
    "3": ("MAS-RACL", "MAS-IMM", "FIM-RACL", "FIM-IMM"),
    "4": tuple(METHODS),
}

TASK_EXPERTS = (
    "fine-tune.epochs=10 fine-tune.lr=0.0005 fine-tune.momentum=0.9 "
    "fine-tune.batch-size=20 fine-tune.part=adapt"
)
"""A user fine-tunes each task's expert; the constants are the released code's."""


class Row(NamedTuple):
    """A line of a table."""

    method: str
    adaptation: str  # none, adabn or adabn-s
    strategy: str
    label: str  # of the row in the run's summary

    @property
    def key(self) -> Key:
        return self.method, self.adaptation


class Run(NamedTuple):
    """One run of a strategy, on one draw of the users' images."""

    strategy: str
    seed: int
    draw: int
    config: RunConfig


class Defaults(NamedTuple):
    """The defaults of an experiment."""

    benchmark: str
    table: str
    model: str
    norm_model: str = ""  # the network of table 4; empty: ``model``
    weights: str = ""
    seeds: tuple[int, ...] = (7, 8, 9)
    draws: tuple[int, ...] = (1,)


_SCENES = {"weights": "imagenet", "seeds": (7,), "draws": (1, 2, 3, 4, 5)}
EXPERIMENTS: dict[str, Defaults] = {
    "dua-numbers": Defaults("dua-numbers", "3", "mlp"),
    "dua-catprior": Defaults("dua-catprior", "3", "alexnet", "vgg11-bn-fc", **_SCENES),  # type: ignore[arg-type]
    "dua-transprior": Defaults("dua-transprior", "3", "alexnet", "vgg11-bn-fc", **_SCENES),  # type: ignore[arg-type]
    "dua-cifar10": Defaults("cifar10-tasks", "4", "vgg11", weights="imagenet"),
    "dua-digits": Defaults("digits-tasks", "3", "mlp"),
}
"""Section 4: three seeds of digits, five draws of users' scenes. Its seeds are not published."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One of the paper's tables on one benchmark."""

    name: str
    table: str
    base: RunConfig  # data and network
    preset: str
    seeds: tuple[int, ...]
    draws: tuple[int, ...]
    training: Mapping[str, Any]  # changes to the preset of the experts' training
    experts: Path  # shared by all runs

    @property
    def published(self) -> Mapping[Key, Score]:
        """The published results for this network; empty if there are none."""
        return PUBLISHED.get((self.name, self.base.model), {})

    @property
    def tasks(self) -> tuple[str, ...]:
        return find_tasks(self.base.benchmark).tasks[: self.base.rounds]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the table."""
        rows = []
        for method in TABLES[self.table]:
            strategy, model = METHODS[method]
            if strategy == "task-experts":
                rows.append(Row(method, "none", strategy, f"{model}+fine-tune"))
                continue
            for how in ADAPTATIONS if self.table == "4" else ("none",):
                rows.append(Row(method, how, strategy, model + f"+{how}" * (how != "none")))
        return tuple(rows)

    def runs(self, folder: Path) -> Iterator[Run]:
        """All runs of the table: each strategy for each seed and draw."""
        for seed in self.seeds:
            for draw in self.draws:
                for strategy in dict.fromkeys(row.strategy for row in self.rows):
                    yield self.run(strategy, seed, draw, folder)

    def run(self, strategy: str, seed: int, draw: int, folder: Path) -> Run:
        """Return the settings of one run; ``folder`` holds the folders of all runs."""
        arguments = {"preset": self.preset, "expert_folder": str(self.experts), **self.training}
        if draw != 1:
            arguments["draw"] = draw
        word, adapt, adapt_args = strategy, "none", ""
        if strategy == "task-experts":
            adapt, adapt_args = "none,fine-tune", TASK_EXPERTS
        elif self.table == "4":
            word, adapt = f"{strategy}-adabn", ",".join(ADAPTATIONS)
        word += f"-seed{seed}" + (f"-draw{draw}" if draw != 1 else "")
        config = replace(
            self.base,
            strategy=strategy,
            strategy_args=shlex.join(f"{name}={value}" for name, value in arguments.items()),
            seed=seed,
            adapt=adapt,
            adapt_args=adapt_args,
            out=str(folder / word),
        )
        return Run(strategy, seed, draw, config)


def base_config(name: str, table: str, preset: str, changes: Mapping[str, Any]) -> RunConfig:
    """Data and network of an experiment; ``changes`` are fields of ``RunConfig``.

    Raises:
        InputError: no such table, or a change that is not allowed.

    """
    if table not in TABLES:
        raise unknown("table", table, tuple(TABLES))
    usual = EXPERIMENTS[name]
    entry = find_tasks(usual.benchmark)
    model = usual.norm_model if table == "4" and usual.norm_model else usual.model
    known = find_network(changes.get("model", model))
    weights = usual.weights if known is not None and known.imagenet else ""
    # The released code corrupts users' images at their native size and does not resize them.
    native = preset == "released" and name == "dua-transprior"
    settings = {
        "benchmark": usual.benchmark,
        "clients": entry.clients,
        "rounds": len(entry.tasks),
        "model": model,
        "weights": weights,
        "shift": "native-corruptions:3" if native else "",
        "save_models": "base",  # clients' models would fill a disk, and no table needs them
    }
    return RunConfig(**{**settings, **changes})
