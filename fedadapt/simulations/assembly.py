"""From a checked configuration to the things that run: benchmark, model, strategy, worker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedadapt.client.adaptations import registry as adaptations
from fedadapt.client.augmentation import Augmentation
from fedadapt.client.failures import Deadlines
from fedadapt.client.stacking import Plan
from fedadapt.client.step_rules import Adam, Optimizer, Sgd
from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark
from fedadapt.datasets.load import load_benchmark
from fedadapt.datasets.task_incremental.benchmark import TaskBenchmark
from fedadapt.datasets.task_incremental.load import load_tasks
from fedadapt.errors import InputError
from fedadapt.lr_schedule import LrSchedule
from fedadapt.models.build import build_model
from fedadapt.models.norms import has_batch_norm
from fedadapt.simulations.alone import TrainingAlone, local_epochs
from fedadapt.simulations.engines.execution import plan_for, with_precision
from fedadapt.simulations.worker import BYTES_ON_GPU, Worker
from fedadapt.strategies.base import LocalTraining, Run, ServerSide
from fedadapt.strategies.registry import select
from fedadapt.strategies.selected import Selected
from fedadapt.strategies.stateful import StatefulStrategy
from fedadapt.weights import Weights


@dataclass(frozen=True, eq=False)
class Assembly:
    """Everything a run needs, on whichever side."""

    config: RunConfig
    selected: Selected  # the strategy by name
    benchmark: Benchmark
    model: nn.Module  # with its initial weights
    worker: Worker
    plan: Plan  # how clients are computed
    tasks: TaskBenchmark | None = None  # where the server learns task after task


@lru_cache(maxsize=2)
def assemble(config: RunConfig, *, on_client: bool = False) -> Assembly:
    """Build it all; a process that answers many messages builds once.

    A client (``on_client``) gets its weights from the server: it needs no weights file.

    Raises:
        InputError: Data, network and strategy do not fit together.

    """
    if select(config).learns_tasks:
        return assembled_tasks(config, load_tasks(config), on_client=on_client)
    return assembled(config, load_benchmark(config), on_client=on_client)


def assembled(config: RunConfig, benchmark: Benchmark, *, on_client: bool = False) -> Assembly:
    """Build what a run needs around a benchmark, wherever its data are.

    Raises:
        InputError: See ``assemble``.

    """
    compute = compute_device(config.device)
    selected = select(config)
    if config.augmentation != "none" and len(benchmark.image_shape) != 3:
        raise InputError(
            f"augmentation: {config.augmentation} is for images, and the inputs of "
            f"{config.benchmark} are {list(benchmark.image_shape)}; leave it out"
        )
    config = replace(config, clients=benchmark.num_clients)  # 0 stood for all there are
    start = replace(config, weights="") if on_client else config
    model = build_model(start, benchmark.image_shape, benchmark.num_classes, benchmark.vocabulary)
    config = with_precision(config, model, benchmark.image_shape, compute)
    plan = plan_for(config, model, benchmark.image_shape, compute)
    strategy = selected.on_client(run_of(config, model, benchmark, on_client=on_client))
    worker = _worker(config, benchmark, model, strategy, plan, compute)
    return Assembly(config, selected, benchmark, model, worker, plan)


def assembled_tasks(
    config: RunConfig, tasks: TaskBenchmark, *, on_client: bool = False
) -> Assembly:
    """Build what a run needs whose server learns task after task.

    Raises:
        InputError: See ``assemble``.

    """
    compute = compute_device(config.device)
    selected = select(config)
    start = replace(config, weights="") if on_client else config
    networks = [build_model(start, tasks.image_shape, len(c)) for c in tasks.task_classes]
    start = with_precision(start, networks[0], tasks.image_shape, compute)
    plans = [plan_for(start, network, tasks.image_shape, compute) for network in networks]
    # On the CPU the benchmark keeps what is expensive to make, for all tasks.
    memory = 0 if compute.type == "cpu" else BYTES_ON_GPU // len(networks)

    def worker_of(task: int, later_tasks: Sequence[Worker] = ()) -> Worker:
        network = networks[task]
        run = run_of(start, network, tasks.of_task(task), on_client=on_client)
        strategy = selected.on_client(run)
        benchmark = tasks.of_task(task, getattr(strategy, "draw", 1))
        plan = plans[task]
        return _worker(
            start, benchmark, network, strategy, plan, compute, memory, later_tasks=later_tasks
        )

    worker = worker_of(0, [worker_of(task) for task in range(1, len(networks))])
    return Assembly(start, selected, worker.benchmark, networks[0], worker, plans[0], tasks)


def run_of(
    config: RunConfig, model: nn.Module, benchmark: Benchmark, *, on_client: bool = False
) -> Run:
    """What a strategy is made from."""
    return Run(
        model=model,
        image_shape=benchmark.image_shape,
        training=local_training(config),
        batch_norm=config.batch_norm,
        rounds=config.rounds,
        seed=config.seed,
        # A client that has something to protect draws its noise from true entropy.
        noise_seed=None if on_client else config.seed,
        newcomers=tuple(sorted(benchmark.unseen)),
        domains=benchmark.domains,
    )


def local_training(config: RunConfig) -> LocalTraining:
    """How clients train in a round."""
    optimizer: Optimizer = Sgd(config.lr, config.momentum, config.weight_decay)
    if config.optimizer == "adam":
        optimizer = Adam(config.lr, weight_decay=config.weight_decay)
    return LocalTraining(
        optimizer=optimizer,
        batch_size=config.batch_size,
        epochs=config.local_epochs,
        lr_schedule=LrSchedule.of(config.lr_schedule),
        rounds=config.rounds,
        augmentation=Augmentation.of(config.augmentation),
    )


def initial(model: nn.Module) -> Weights:
    """The weights that a run begins with; views of the model's own."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def on_server(
    assembly: Assembly, folder: Path, progress: Callable[[Any], None] | None = None
) -> StatefulStrategy:
    """The strategy with its state, as the server runs it; see ``server_side``."""
    server = server_side(assembly, folder, progress)
    return assembly.selected.on_server(assembly.worker.strategy, server)


def server_side(
    assembly: Assembly, folder: Path, progress: Callable[[Any], None] | None = None
) -> ServerSide:
    """What a strategy can use on the server; ``folder`` takes what is too large for memory."""
    return ServerSide(
        config=assembly.config,
        tasks=assembly.tasks,
        folder=folder,
        compute=assembly.worker.compute,
        images=assembly.benchmark.server_images,
        scaling=assembly.benchmark.scaling,
        progress=progress,
    )


def compute_device(word: str) -> torch.device:
    """``auto`` is CUDA where there is a card."""
    if word == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device: cuda was asked for, but torch finds no CUDA device; use cpu or auto"
        )
    if word == "auto":
        word = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(word)


def _worker(
    config: RunConfig,
    benchmark: Benchmark,
    model: nn.Module,
    strategy: object,
    plan: Plan,
    compute: torch.device,
    bytes_in_memory: int | None = None,
    later_tasks: Sequence[Worker] = (),
) -> Worker:
    return Worker(
        benchmark,
        model,
        strategy,  # type: ignore[arg-type]
        adaptations.parse(config, has_batch_norm=has_batch_norm(model)),
        seed=config.seed,
        compute=compute,
        autocast=torch.bfloat16 if config.precision == "bf16" else None,
        execution=plan.execution,
        bytes_in_memory=bytes_in_memory,
        alone=TrainingAlone(local_training(config), local_epochs(config), initial(model)),
        later_tasks=later_tasks,
        deadlines=Deadlines(config.client_deadline, config.round_deadline),
    )
