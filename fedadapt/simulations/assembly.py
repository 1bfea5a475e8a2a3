"""From a checked configuration to the things that run: benchmark, model, strategy, worker."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from fedadapt.client.adaptations import settings as adaptations
from fedadapt.client.fit import Sgd
from fedadapt.client.stacking import Plan
from fedadapt.config import RunConfig, parse_arguments
from fedadapt.datasets.benchmark import Benchmark
from fedadapt.datasets.load import load_benchmark
from fedadapt.datasets.task_incremental.benchmark import TaskBenchmark
from fedadapt.datasets.task_incremental.task_entries import is_tasks
from fedadapt.errors import InputError
from fedadapt.models.build import build_model
from fedadapt.simulations.engines.execution import plan_for, warn_if_slow
from fedadapt.simulations.strategy_state import StatefulStrategy, StrategyWithState
from fedadapt.simulations.task_assembly import server_side, task_worker
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.base import LocalTraining, Strategy
from fedadapt.strategies.catalog import is_own
from fedadapt.strategies.dua.experts.training import Epoch
from fedadapt.strategies.fedavg import FedAvg
from fedadapt.strategies.pfa.arguments import pfa_arguments
from fedadapt.strategies.pfa.strategy import PFA


@dataclass(frozen=True, eq=False)
class Assembly:
    """Everything a run needs, on whichever side."""

    config: RunConfig
    benchmark: Benchmark
    model: nn.Module  # with its initial weights
    worker: Worker
    plan: Plan  # how clients are computed
    tasks: TaskBenchmark | None = None  # where the server learns task after task


@lru_cache(maxsize=2)
def assemble(config: RunConfig, *, on_client: bool = False) -> Assembly:
    """Build it all; a process that answers many messages builds once.

    A client (``on_client``) gets its weights from the server: it needs no weights file.
    """
    compute = compute_device(config.device)
    warn_if_slow(config, compute)
    if is_tasks(config.benchmark):
        return _of_tasks(config, compute, on_client=on_client)
    benchmark = load_benchmark(config)
    start = replace(config, weights="") if on_client else config
    model = build_model(start, benchmark.image_shape, benchmark.num_classes)
    chosen = plan_for(config, model, benchmark.image_shape, compute)
    worker = Worker(
        benchmark,
        model,
        # A client that has something to protect draws its noise from true entropy.
        local_strategy(config, model, benchmark, noise_seed=None if on_client else config.seed),
        adaptations.parse(config),
        seed=config.seed,
        compute=compute,
        autocast=torch.bfloat16 if config.precision == "bf16" else None,
        execution=chosen.execution,
    )
    return Assembly(config, benchmark, model, worker, chosen)


def _of_tasks(config: RunConfig, compute: torch.device, *, on_client: bool) -> Assembly:
    start = replace(config, weights="") if on_client else config
    worker, tasks, network, chosen = task_worker(start, compute)
    return Assembly(config, worker.benchmark, network, worker, chosen, tasks)


def local_strategy(
    config: RunConfig, model: nn.Module, benchmark: Benchmark, *, noise_seed: int | None = None
) -> Strategy[object]:
    """The strategy as clients know it; under a Flower strategy they train as for FedAvg."""
    training = LocalTraining(
        optimizer=Sgd(config.lr, config.momentum, config.weight_decay),
        batch_size=config.batch_size,
        epochs=config.local_epochs,
    )
    if config.strategy == "pfa":
        return PFA(  # type: ignore[return-value]
            model=model,
            image_shape=benchmark.image_shape,
            training=training,
            batch_norm=config.batch_norm,
            newcomers=tuple(sorted(benchmark.unseen)),
            seed=config.seed,
            noise_seed=noise_seed,
            **pfa_arguments(config),
        )
    own = parse_arguments(config.strategy_args, "strategy-args") if is_own(config.strategy) else {}
    return FedAvg(  # type: ignore[return-value]
        training=training,
        model=model,
        mu=float(own.get("mu", 0.0)),
        batch_norm=config.batch_norm,
    )


def method(
    assembly: Assembly, folder: Path, progress: Callable[[Epoch], None] | None = None
) -> StatefulStrategy:
    """The server's side; ``folder`` is the run's, for what is too large for memory."""
    if assembly.tasks is not None:
        config, model = assembly.config, assembly.model
        where = (folder, assembly.worker.compute)
        return StrategyWithState(server_side(config, assembly.tasks, model, *where, progress))  # type: ignore[arg-type]
    if is_own(assembly.config.strategy):
        return StrategyWithState(assembly.worker.strategy)
    from fedadapt.flower.flower_as_ours import FlowerStrategyWithState, load_strategy

    return FlowerStrategyWithState(load_strategy(assembly.config), seed=assembly.config.seed)


def compute_device(word: str) -> torch.device:
    """``auto`` is CUDA where there is a card."""
    if word == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device: cuda was asked for, but torch finds no CUDA device; use cpu or auto"
        )
    if word == "auto":
        word = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(word)
