"""From a checked configuration to a run over tasks: users' side, and the server's experts."""

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedadapt.client.adaptations import registry as adaptations
from fedadapt.client.stacking import Plan
from fedadapt.config import RunConfig
from fedadapt.datasets.task_incremental.benchmark import TaskBenchmark
from fedadapt.datasets.task_incremental.load import load_tasks
from fedadapt.models.build import build_model
from fedadapt.models.norms import has_batch_norm
from fedadapt.simulations.engines.execution import plan_for
from fedadapt.simulations.task_worker import TaskWorker
from fedadapt.simulations.worker import BYTES_ON_GPU, Worker
from fedadapt.strategies.dua.experts.training import (
    Epoch,
    Expert,
    ExpertTraining,
    expert_importances,
    train_experts,
)
from fedadapt.strategies.dua.importance_store import OnDiskImportances
from fedadapt.strategies.dua.request import ImportanceRequest
from fedadapt.strategies.dua.strategy import DUA
from fedadapt.strategies.dua.variants import Given, dua_arguments
from fedadapt.weights import Weights

EXPERTS, PRECISIONS = "experts", "precisions"
SHORT = {"epochs": 10, "batch_size": 20}  # of the paper, for digits; the defaults are for scenes

log = logging.getLogger(__name__)


def task_worker(
    config: RunConfig, compute: torch.device
) -> tuple[TaskWorker, TaskBenchmark, nn.Module, Plan]:
    """The users' side, the benchmark, the network for the first task, and how it is computed."""
    tasks, given = load_tasks(config), dua_arguments(config)
    networks = [build_model(config, tasks.image_shape, len(c)) for c in tasks.task_classes]
    plans = [plan_for(config, network, tasks.image_shape, compute) for network in networks]
    workers = [
        Worker(
            tasks.of_task(task, given.draw),
            network,
            DUA(model=network, importance_request=importance_request(given)),  # type: ignore[arg-type]
            adaptations.parse(config, has_batch_norm=has_batch_norm(network)),
            seed=config.seed,
            compute=compute,
            autocast=torch.bfloat16 if config.precision == "bf16" else None,
            execution=plans[task].execution,
            # On the CPU the benchmark keeps what is dear to make, for all tasks.
            bytes_in_memory=0 if compute.type == "cpu" else BYTES_ON_GPU // len(networks),
        )
        for task, network in enumerate(networks)
    ]
    return TaskWorker(workers), tasks, networks[0], plans[0]


def importance_request(given: Given) -> ImportanceRequest | None:
    """What is asked of the users; the presets are those of ``docs/dua.md``."""
    if not given.variant.personal:
        return None
    return ImportanceRequest(
        **_measure(given),
        upload=given.upload,
        share=given.share,
        stays=given.merge_on == "client",
    )


def _measure(given: Given) -> dict[str, Any]:
    """The released code draws the labels of its Fisher, and takes means over batches first."""
    if given.preset == "paper":
        return {"kind": given.variant.merged_by}
    fisher = {"kind": "true-fisher", "floor": 1e-8}
    kind = {"kind": "mas"} if given.variant.merged_by == "mas" else fisher
    return {**kind, "granularity": "batch", "batch_size": 20}


def server_side(
    config: RunConfig,
    tasks: TaskBenchmark,
    network: nn.Module,
    folder: Path,
    compute: torch.device,
    progress: Callable[[Epoch], None] | None = None,
) -> DUA:
    """Train what experts are not there yet; the strategy that serves them."""
    given = dua_arguments(config)
    short = SHORT if tasks.image_shape[1] < 64 and not config.benchmark.startswith("cifar") else {}
    make = ExpertTraining.paper if given.preset == "paper" else ExpertTraining.released
    training = make(given.variant.training, **{**short, **given.training})
    place = Path(given.experts).expanduser() if given.experts else folder / EXPERTS
    known = tasks.tasks[: config.rounds]
    experts = train_experts(
        network,
        known,
        training,
        scaling=tasks.scaling,
        seed=config.seed,
        compute=compute,
        folder=place / _word(config, training),
        progress=progress,
    )
    for expert in experts:
        log.info("expert %s: %.2f %% on validation", expert.name, 100 * expert.accuracy)
    return DUA(
        model=network,
        importance_request=importance_request(given),
        tasks=tuple(task.name for task in known),
        experts=tuple(experts),
        server_importances=_own(given, network, experts, tasks, config, compute),
        separate=given.variant.separate,
        zero_importance="mean" if given.preset == "paper" else "zero",
        importance_store=OnDiskImportances(folder / PRECISIONS),
    )


def _own(
    given: Given,
    network: nn.Module,
    experts: list[Expert],
    tasks: TaskBenchmark,
    config: RunConfig,
    compute: torch.device,
) -> tuple[Weights, ...]:
    """Omega of every expert on the server's images, where experts are merged."""
    if not given.variant.merged_by:
        return ()
    split = "validation" if given.preset == "paper" else "train+validation"
    return tuple(
        expert_importances(
            network,
            expert,
            task,
            **_measure(given),
            split=split,  # type: ignore[arg-type]
            scaling=tasks.scaling,
            seed=config.seed,
            compute=compute,
        )
        for expert, task in zip(experts, tasks.tasks, strict=False)
    )


def _word(config: RunConfig, training: ExpertTraining) -> str:
    """A folder of its own for what may not be mixed, below one that runs may share."""
    settings = json.dumps([training.to_mapping(), config.examples, config.weights])
    mark = hashlib.sha256(settings.encode()).hexdigest()[:8]
    return f"{config.benchmark}-{config.model}-{training.method}-seed{config.seed}-{mark}"
