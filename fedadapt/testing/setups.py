"""A strategy by its name, put together with clients to try it on."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from fedadapt.client.cohort import Execution
from fedadapt.client.fit import Sgd
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.parameters import Scalar, parameters
from fedadapt.simulations.assembly import Assembly, assemble, server_side
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.base import LocalTraining, Run, ServerSide, Strategy
from fedadapt.strategies.registry import find, is_flowers
from fedadapt.strategies.selected import SelectedStrategy
from fedadapt.testing.assertions import FLOAT32, FLOAT64, require
from fedadapt.testing.toys import (
    BATCH_SIZE,
    DOMAINS,
    IMAGE_SHAPE,
    NETWORKS,
    PARTICULAR,
    SEEN,
    UNSEEN,
    Toys,
    build,
)
from fedadapt.testing.trial import Clients, DirectClients, Trial
from fedadapt.weights import Weights

Arguments = Mapping[str, Scalar]

ROUNDS = 3
POLICIES = {"mlp": "shared", "cnn": "local", "residual": "reestimate", "transformer": "shared"}
"""The batch-norm policy of each toy network, for strategies that take one from the run."""
SERVER_SHARE = 0.3  # of no effect: the toys' server has images of its own
TASKS, TASK_CLIENTS, TASK_EXAMPLES = 3, 3, 20


class Setup(Protocol):
    """A strategy and clients, from which any number of trials can be begun."""

    @property
    def label(self) -> str:
        """What messages call it."""
        ...

    @property
    def rounds(self) -> int: ...

    @property
    def seen(self) -> Sequence[int]:
        """The clients that train."""
        ...

    @property
    def everyone(self) -> Sequence[int]: ...

    @property
    def limits(self) -> dict[str, float]:
        """How well sums in different orders agree."""
        ...

    @property
    def executions(self) -> tuple[Execution, ...]:
        """The ways to compute clients together."""
        ...

    @property
    def start(self) -> Weights:
        """The initial model."""
        ...

    def worker(self, execution: Execution = "sequential") -> Worker:
        """Return what computes the clients."""
        ...

    @property
    def folder(self) -> Path:
        """A folder for those of the trials."""
        ...

    def strategy(self, worker: Worker, folder: Path) -> Strategy[Any]:
        """Return the strategy as the server runs it, in a run folder."""
        ...


@dataclass(frozen=True, eq=False)
class ToySetup:
    """A strategy on the toy federation with one of its networks."""

    selected: SelectedStrategy
    config: RunConfig
    network: str
    folder: Path
    newcomers: tuple[int, ...] = UNSEEN
    rounds: int = ROUNDS
    seen: Sequence[int] = SEEN
    everyone: Sequence[int] = (*SEEN, *UNSEEN)
    executions: tuple[Execution, ...] = ("stacked-kernels", "vmap")

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.selected.name} on {self.network}"

    @property
    def limits(self) -> dict[str, float]:
        return FLOAT64

    @property
    def start(self) -> Weights:
        return dict(self._model().state_dict())

    def worker(self, execution: Execution = "sequential") -> Worker:
        model = self._model()
        run = Run(
            model=model,
            image_shape=IMAGE_SHAPE,
            training=LocalTraining(optimizer=Sgd(0.05, 0.5), batch_size=BATCH_SIZE, epochs=1),
            batch_norm=POLICIES[self.network],
            rounds=self.rounds,
            seed=1,
            noise_seed=1,
            newcomers=self.newcomers,
            domains=DOMAINS,
        )
        strategy = self.selected.on_client(run)
        return Worker(Toys(), model, strategy, (), seed=1, execution=execution)

    def strategy(self, worker: Worker, folder: Path) -> Strategy[Any]:
        cpu = torch.device("cpu")
        server = ServerSide(
            config=self.config,
            tasks=None,
            folder=folder,
            compute=cpu,
            images=worker.benchmark.server_images,
            scaling=worker.benchmark.scaling,
        )
        return worker.strategy.prepare(server)

    def _model(self) -> nn.Module:
        return build({**NETWORKS, **PARTICULAR}[self.network])


@dataclass(frozen=True, eq=False)
class TaskSetup:
    """A strategy for task-incremental benchmarks, on three tasks of handwritten digits."""

    config: RunConfig
    folder: Path
    rounds: int = TASKS
    seen: Sequence[int] = tuple(range(TASK_CLIENTS))
    everyone: Sequence[int] = tuple(range(TASK_CLIENTS))
    executions: tuple[Execution, ...] = ("stacked-kernels",)

    @property
    def label(self) -> str:
        return f"{self.config.strategy} on {self.config.benchmark}"

    @property
    def limits(self) -> dict[str, float]:
        return FLOAT32

    @property
    def start(self) -> Weights:
        return dict(self._assembly("sequential").model.state_dict())

    def worker(self, execution: Execution = "sequential") -> Worker:
        return self._assembly(execution).worker

    def strategy(self, worker: Worker, folder: Path) -> Strategy[Any]:
        assembly = self._assembly("sequential")
        return worker.strategy.prepare(server_side(assembly, folder))

    def _assembly(self, execution: Execution) -> Assembly:
        how = "sequential" if execution == "sequential" else "stacked"
        return assemble(replace(self.config, execution=how))


@contextmanager
def few_setups(name: str, arguments: Arguments | None = None) -> Iterator[list[Setup]]:
    """The same without the network that has no batch normalisation, where others are accepted.

    For rules that have nothing to do with how a network is computed.
    """
    with setups(name, arguments) as cases:
        yield cases[1:] or cases


@contextmanager
def setups(name: str, arguments: Arguments | None = None) -> Iterator[list[Setup]]:
    """Every setup for a strategy: each toy network that it accepts, or tasks.

    Meanwhile torch has one thread: on tensors of this size more of them are slower.

    Args:
        name: As ``--strategy`` takes it: a registered name or ``module:Class``.
        arguments: As ``--strategy-args`` takes them.

    Raises:
        InputError: There is no such strategy, it is of Flower's interface, or the arguments are
            not allowed.
        AssertionError: It accepts no network.

    """
    arguments = arguments or {}
    cls = find(name)
    if is_flowers(cls):
        raise InputError(f"strategy: {name} implements Flower's interface, which has no contract")
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(1)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedadapt-contract-"))
        if cls.learns_tasks:
            yield [TaskSetup(_config_of_tasks(name, arguments), Path(folder))]
            return
        share = SERVER_SHARE if cls.trains_on_server else 0.0
        config = RunConfig(
            strategy=name,
            rounds=ROUNDS,
            clients=len(SEEN),
            batch_norm="shared",
            server_share=share,
        )
        selected = SelectedStrategy.of(config, cls, arguments)
        accepted: list[Setup] = []
        refused = []
        for network in (*NETWORKS, *PARTICULAR):
            if accepted and network in PARTICULAR:
                break
            setup = ToySetup(selected, config, network, Path(folder))
            try:
                setup.worker()
            except InputError as error:
                refused.append(f"{network}: {error}")
            else:
                accepted.append(setup)
        require(accepted, f"{name} accepts none of the networks: {'; '.join(refused)}")
        yield accepted


def begin(setup: Setup, execution: Execution = "sequential", cohort_size: int = 1) -> Trial:
    """Begin a trial whose clients are computed in this process, so many at a time."""
    worker = setup.worker(execution)
    return trial_with(setup, worker, DirectClients(worker, cohort_size))


def begin_in(setup: Setup, folder: Path) -> Trial:
    """Begin a trial in a folder that another one has left."""
    worker = setup.worker()
    strategy = setup.strategy(worker, folder)
    return Trial(strategy, DirectClients(worker), setup.seen, None, folder)


def trial_with(setup: Setup, worker: Worker, clients: Clients) -> Trial:
    """Begin a trial with any kind of clients."""
    folder = new_folder(setup)
    strategy = setup.strategy(worker, folder)
    state = strategy.begin(setup.start, setup.seen)
    return Trial(strategy, clients, setup.seen, state, folder)


def new_folder(setup: Setup) -> Path:
    """Make an empty folder for a trial; it is gone when the setup's rule is."""
    return Path(tempfile.mkdtemp(dir=setup.folder))


def _config_of_tasks(name: str, arguments: Arguments) -> RunConfig:
    """A run of seconds; experts train for an epoch where the strategy has them."""
    quick: dict[str, Scalar] = {"epochs": 1} if "epochs" in parameters(find(name)) else {}
    chosen = {**quick, **{key.replace("-", "_"): value for key, value in arguments.items()}}
    written = " ".join(f"{key}={_written(value)}" for key, value in chosen.items())
    return RunConfig(
        benchmark="digits-tasks",
        clients=TASK_CLIENTS,
        examples=TASK_EXAMPLES,
        rounds=TASKS,
        strategy=name,
        strategy_args=written,
        model="mlp",
        device="cpu",
    )


def _written(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
