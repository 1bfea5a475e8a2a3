"""fedadapt: the loop, ledger, journal and checkpoints of ``fedadapt simulate``, and its fleets."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.clock import Clock, Enough
from benchmarks.works import Clients, Work, network
from fedadapt.client.adaptations import registry as adaptations
from fedadapt.client.statistics.importance import importances
from fedadapt.client.statistics.sparsity import SPARSITY, sparsity_vectors
from fedadapt.config import RunConfig
from fedadapt.messages import Answers, Sent, Update
from fedadapt.models.norms import has_batch_norm
from fedadapt.server.client_pool import EvaluationRequest
from fedadapt.server.client_states import ClientStates
from fedadapt.simulations.assembly import Assembly, compute_device, run_of
from fedadapt.simulations.engines.execution import plan_for
from fedadapt.simulations.engines.ray_clients import RayWorkers
from fedadapt.simulations.engines.select import Engine, engine_for
from fedadapt.simulations.engines.worker_pool import WorkerPoolClients
from fedadapt.simulations.run import run as run_folder
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.dua.strategy import IMPORTANCE
from fedadapt.strategies.registry import select
from fedadapt.weights import Weights, repeat, row

FOR_EVER = 10**6  # rounds: the clock ends it
QUERIES = (SPARSITY, IMPORTANCE)


def run(work: Work, clock: Clock, **settings: Any) -> str:
    """Rounds until the clock has had enough; how clients were computed, in words."""
    torch.set_num_threads(1)
    made = assembly(work, **settings)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        client_pool = stack.enter_context(_client_pool(made, work, folder))
        stack.enter_context(suppress(Enough))
        if work.kind == "train":
            run_folder(made, Timed(client_pool, clock), folder)
        else:
            _ask(work, made, client_pool, clock)
    return f"{made.plan.execution}, {made.plan.cohort_size} at a time"


def assembly(work: Work, *, tasks: int = 1, **settings: Any) -> Assembly:
    """What ``fedadapt simulate`` would assemble, with the work's clients in the benchmark's place.

    Args:
        tasks: For methods that learn tasks: so many, with the same images in each.
        settings: Further keys of the configuration: engine, execution, precision, workers, ...

    """
    of_work: dict[str, Any] = {
        "model": work.model,
        "clients": work.clients,
        "rounds": FOR_EVER,
        "local_epochs": 1,
        "batch_size": work.batch,
        "lr": work.lr or 0.01,
        "momentum": work.momentum,
        "adapt": work.kind if work.kind == "adabn-s" else "none",
        "evaluate_every": 1 if work.evaluated else FOR_EVER,
        "evaluate_clients": work.clients,
        "global_test": "none",
    }
    config = RunConfig(**of_work | settings)
    clients, model = Clients(work), network(work)
    compute = compute_device(config.device)
    selected = select(config)
    plan = plan_for(config, model, work.shape, compute)
    given = (
        clients,
        model,
        selected.on_client(run_of(config, model, clients)),
        adaptations.parse(config, has_batch_norm=has_batch_norm(model)),
    )
    how: dict[str, Any] = {
        "seed": config.seed,
        "compute": compute,
        "autocast": torch.bfloat16 if config.precision == "bf16" else None,
        "execution": plan.execution,
    }
    later_tasks = [Asked(*given, **how) for _ in range(tasks - 1)]
    worker = Asked(*given, **how, later_tasks=later_tasks)
    return Assembly(config, selected, clients, model, worker, plan)


class Asked(Worker):
    """Answers queries that otherwise only PFA's and DUA's rounds ask."""

    def answer(
        self, action: str, round: int, sent: Sent, states: Sequence[Mapping[str, Weights]] = ()
    ) -> Update:
        if action not in QUERIES or action in self.strategy.query_types:
            return super().answer(action, round, sent, states)
        cohort = self.cohort(sent.clients, round, states)
        if action == SPARSITY:
            found = {"sparsity": sparsity_vectors(cohort, sent.weights)}
        else:
            found = importances(cohort, sent.weights, kind="mas")
        return Update({}, cohort.num_examples, report=found)


class Timed:
    """A fleet that ticks when a round begins."""

    def __init__(self, client_pool: Engine, clock: Clock) -> None:
        self._client_pool, self._clock = client_pool, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client_pool, name)

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        self._clock.tick(lambda: row(sent.weights, 0))
        return self._client_pool.ask(action, round, sent, expected)


class WorkerSpec(NamedTuple):
    """From which a Ray actor builds its worker."""

    work: Work
    settings: dict[str, Any]

    def build(self) -> Worker:
        return assembly(self.work, **self.settings).worker


def _client_pool(made: Assembly, work: Work, folder: Path) -> AbstractContextManager[Engine]:
    config = made.config
    if config.engine != "ray":
        return engine_for(made, folder)
    worker_spec = WorkerSpec(
        work, {"execution": config.execution, "cohort_size": config.cohort_size}
    )
    worker_pool = RayWorkers(worker_spec, made.benchmark.manifest.hash, "", config.workers, 0.0)  # type: ignore[arg-type]
    size = made.plan.cohort_size
    return WorkerPoolClients(
        made.worker, worker_pool, cohort_size=size, client_states=ClientStates(folder)
    )


def _ask(work: Work, made: Assembly, client_pool: Engine, clock: Clock) -> None:
    """A round is one question to all clients, whose answers are looked through and let go."""
    clients = tuple(range(work.clients))
    state = {n: t.detach() for n, t in made.model.state_dict().items()}
    models = repeat(state, work.clients)
    for number in range(1, FOR_EVER):
        clock.tick()
        if work.kind == "adabn-s":
            request = EvaluationRequest(number, clients, {"base": models}, ("adabn-s",))
            count = sum(len(answers.clients) for answers in client_pool.evaluate(request))
        else:
            action = SPARSITY if work.kind == "sparsity" else IMPORTANCE
            sent = Sent(clients, models, {"server-round": number})
            asked = client_pool.ask(action, number, sent, row(models, 0))
            count = sum(len(answers.clients) for answers in asked)
        if count < work.clients:
            raise SystemExit(f"{work.name}: {work.clients - count} clients did not answer")
