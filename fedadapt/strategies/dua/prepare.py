"""What the server of DUA does before the first round: experts, and its own importances of them."""

import hashlib
import json
import logging
from dataclasses import replace
from typing import TypeVar

from fedadapt.config import RunConfig
from fedadapt.datasets.task_incremental.benchmark import TaskBenchmark
from fedadapt.datasets.task_incremental.task_entries import find_tasks, is_tasks
from fedadapt.files import user_path
from fedadapt.strategies.base import ServerSide
from fedadapt.strategies.dua.experts.expert import Expert
from fedadapt.strategies.dua.experts.importance import expert_importances
from fedadapt.strategies.dua.experts.settings import ExpertTraining
from fedadapt.strategies.dua.experts.training import train_experts
from fedadapt.strategies.dua.importance_store import OnDiskImportances
from fedadapt.strategies.dua.strategy import MergedExperts
from fedadapt.weights import Weights

EXPERTS, IMPORTANCES = "experts", "importances"
SHORT = {"epochs": 10, "batch_size": 20}  # of the paper, for digits; the defaults are for scenes

Variant = TypeVar("Variant", bound=MergedExperts)

log = logging.getLogger(__name__)


def prepared(strategy: Variant, server: ServerSide) -> Variant:
    """Return the strategy with its experts; those that are in the folder are not trained again."""
    config, tasks = server.config, server.tasks
    brief = is_tasks(config.benchmark) and find_tasks(config.benchmark).short_training
    small = brief and tasks.image_shape[1] < 64
    make = ExpertTraining.paper if strategy.preset == "paper" else ExpertTraining.released
    training = make(strategy.method, **{**(SHORT if small else {}), **strategy.training})
    given = strategy.expert_folder
    folder = user_path(given, "strategy-args: expert_folder") if given else server.folder / EXPERTS
    learnt = tasks.tasks[: config.rounds]
    experts = train_experts(
        strategy.model,
        learnt,
        training,
        scaling=tasks.scaling,
        seed=config.seed,
        compute=server.compute,
        folder=folder / _name(config, training),
        progress=server.progress,
    )
    for expert in experts:
        log.info("expert %s: %.2f %% on validation", expert.name, 100 * expert.accuracy)
    return replace(
        strategy,
        tasks=tuple(task.name for task in learnt),
        experts=tuple(experts),
        server_importances=_importances(strategy, experts, tasks, server),
        importance_store=OnDiskImportances(server.folder / IMPORTANCES),
    )


def _importances(
    strategy: MergedExperts, experts: list[Expert], tasks: TaskBenchmark, server: ServerSide
) -> tuple[Weights, ...]:
    """Omega of every expert on the server's images, where experts are merged."""
    if not strategy.merged_by:
        return ()
    split = "validation" if strategy.preset == "paper" else "train+validation"
    return tuple(
        expert_importances(
            strategy.model,
            expert,
            task,
            **strategy.measure,
            split=split,  # type: ignore[arg-type]
            scaling=tasks.scaling,
            seed=server.config.seed,
            compute=server.compute,
        )
        for expert, task in zip(experts, tasks.tasks, strict=False)
    )


def _name(config: RunConfig, training: ExpertTraining) -> str:
    """A folder of its own for what may not be mixed, below one that runs may share."""
    given = [config.examples, config.weights, *filter(None, [config.server_data])]
    settings = json.dumps([training.to_mapping(), *given])
    mark = hashlib.sha256(settings.encode()).hexdigest()[:8]
    return f"{config.benchmark}-{config.model}-{training.method}-seed{config.seed}-{mark}"
