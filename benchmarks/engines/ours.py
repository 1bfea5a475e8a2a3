"""fedadapt: the loop, ledger, journal and checkpoints of ``fedadapt simulate``, and its fleets."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.clock import Clock, Enough
from benchmarks.works import BATCH, Devices, Work, network
from fedadapt.client.adaptations import settings as adaptations
from fedadapt.client.statistics.importance import importances
from fedadapt.client.statistics.sparsity import SPARSITY, sparsity_vectors
from fedadapt.config import RunConfig
from fedadapt.messages import Answers, Sent, Update
from fedadapt.server.client_pool import EvaluationRequest
from fedadapt.simulations.assembly import Assembly, compute_device, local_strategy
from fedadapt.simulations.engines.client_states import Keeper
from fedadapt.simulations.engines.execution import plan_for
from fedadapt.simulations.engines.ray_clients import RayCrew
from fedadapt.simulations.engines.select import Engine, engine_for
from fedadapt.simulations.engines.worker_pool import CrewFleet
from fedadapt.simulations.run import run as run_folder
from fedadapt.simulations.worker import FISHER, Worker
from fedadapt.weights import Weights, repeat, row

FOR_EVER = 10**6  # rounds: the clock ends it


def run(work: Work, clock: Clock, **settings: Any) -> str:
    """Rounds until the clock has had enough; how devices were computed, in words."""
    torch.set_num_threads(1)
    made = assembly(work, **settings)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fleet = stack.enter_context(_fleet(made, work, folder))
        stack.enter_context(suppress(Enough))
        if work.kind == "train":
            run_folder(made, Timed(fleet, clock), folder)
        else:
            _ask(work, made, fleet, clock)
    return f"{made.plan.execution}, {made.plan.cohort_size} at a time"


def assembly(work: Work, **settings: Any) -> Assembly:
    """What ``fedadapt simulate`` would assemble, with the work's devices in the benchmark's place.

    Args:
        settings: Further keys of the configuration: engine, execution, precision, workers, ...

    """
    config = RunConfig(
        model=work.model,
        devices=work.devices,
        rounds=FOR_EVER,
        local_epochs=1,
        batch_size=BATCH,
        lr=work.lr or 0.01,
        momentum=work.momentum,
        adapt=work.kind if work.kind == "adabn-s" else "none",
        evaluate_every=1 if work.evaluated else FOR_EVER,
        evaluate_devices=work.devices,
        global_test="none",
        **settings,
    )
    devices, model = Devices(work), network(work)
    compute = compute_device(config.device)
    plan = plan_for(config, model, work.shape, compute)
    worker = Asked(
        devices,
        model,
        local_strategy(config, model, devices),
        adaptations.parse(config),
        seed=config.seed,
        compute=compute,
        autocast=torch.bfloat16 if config.precision == "bf16" else None,
        execution=plan.execution,
    )
    return Assembly(config, devices, model, worker, plan)


class Asked(Worker):
    """Answers queries that otherwise only PFA's and DUA's rounds ask."""

    def answer(
        self, action: str, round: int, sent: Sent, kept: Sequence[Mapping[str, Weights]] = ()
    ) -> Update:
        if action == "train":
            return super().answer(action, round, sent, kept)
        cohort = self.cohort(sent.devices, round, kept)
        if action == SPARSITY:
            found = {"sparsity": sparsity_vectors(cohort, sent.weights)}
        else:
            found = importances(cohort, sent.weights, kind="mas")
        return Update({}, cohort.num_examples, report=found)


class Timed:
    """A fleet that ticks when a round begins."""

    def __init__(self, fleet: Engine, clock: Clock) -> None:
        self._fleet, self._clock = fleet, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fleet, name)

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        self._clock.tick()
        return self._fleet.ask(action, round, sent, expected)


class Recipe(NamedTuple):
    """From which a Ray actor builds its worker."""

    work: Work
    settings: dict[str, Any]

    def build(self) -> Worker:
        return assembly(self.work, **self.settings).worker


def _fleet(made: Assembly, work: Work, folder: Path) -> AbstractContextManager[Engine]:
    config = made.config
    if config.engine != "ray":
        return engine_for(made, folder)
    recipe = Recipe(work, {"execution": config.execution, "cohort_size": config.cohort_size})
    crew = RayCrew(recipe, made.benchmark.manifest.hash, "", config.workers, 0.0)  # type: ignore[arg-type]
    size = made.plan.cohort_size
    return CrewFleet(made.worker, crew, cohort_size=size, keeper=Keeper(folder))


def _ask(work: Work, made: Assembly, fleet: Engine, clock: Clock) -> None:
    """A round is one question to all devices, whose answers are looked through and let go."""
    devices = tuple(range(work.devices))
    state = {n: t.detach() for n, t in made.model.state_dict().items()}
    models = repeat(state, work.devices)
    for number in range(1, FOR_EVER):
        clock.tick()
        if work.kind == "adabn-s":
            request = EvaluationRequest(number, devices, {"base": models}, ("adabn-s",))
            count = sum(len(answers.devices) for answers in fleet.evaluate(request))
        else:
            action = SPARSITY if work.kind == "sparsity" else FISHER
            sent = Sent(devices, models, {"server-round": number})
            asked = fleet.ask(action, number, sent, row(models, 0))
            count = sum(len(answers.devices) for answers in asked)
        if count < work.devices:
            raise SystemExit(f"{work.name}: {work.devices - count} devices did not answer")
