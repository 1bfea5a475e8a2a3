"""A method's rounds, one at a time and all in this process, so that methods can take turns."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.engines.ours import assembly
from benchmarks.works import Work
from fedadapt.messages import Sent
from fedadapt.selectors import head as head_of
from fedadapt.server.client_pool import EvaluationRequest
from fedadapt.server.client_states import ClientStates
from fedadapt.server.exchange import Exchange
from fedadapt.simulations.assembly import Assembly, initial, on_server
from fedadapt.simulations.engines.in_process import InProcessClients
from fedadapt.simulations.pooled_answers import pooled_answer
from fedadapt.strategies.dua.experts.expert import Expert, TaskHead
from fedadapt.strategies.stateful import StrategyWithState
from fedadapt.weights import Weights, repeat, row

Turn = Callable[[], None]
"""What is timed: it does the same each time, for all clients of a work."""

EXPERTS = ("first", "second")


def rounds(work: Work, folder: Path, **settings: Any) -> Turn:
    """Return the next training round of a strategy, with all clients, at each call.

    Args:
        folder: For client states that are too many for memory.
        settings: Of the run, beside those of the work: strategy, strategy_args, execution, ...

    """
    made = assembly(work, workers=1, **settings)
    client_pool, everyone = _pool(made, folder), tuple(range(work.clients))
    method = on_server(made, folder)
    method.begin({n: t.clone() for n, t in initial(made.model).items()}, everyone)
    done = [0]

    def turn() -> None:
        done[0] += 1
        method.round(_exchange(client_pool, done[0]), everyone)

    return turn


def evaluations(work: Work, folder: Path, adaptation: str, **settings: Any) -> Turn:
    """Return the adaptation of the base model to each client and the test of what it has become.

    What the adaptation asks the federation beforehand is asked here, and is no part of the turn.
    """
    made = assembly(work, workers=1, adapt=adaptation, **settings)
    client_pool, everyone = _pool(made, folder), tuple(range(work.clients))
    base = {n: t.clone() for n, t in initial(made.model).items()}
    pooled: dict[str, Weights] = {}
    for name, ask in _questions(made, client_pool, base).items():
        pooled[name] = ask()
    models = {"base": repeat(base, work.clients)}
    request = EvaluationRequest(1, everyone, models, (adaptation,), pooled)

    def turn() -> None:
        for answers in client_pool.evaluate(request):
            for failure in (*answers.failed, *answers.failures.values()):
                raise SystemExit(f"{adaptation}: {failure.reason}")

    return turn


def questions(work: Work, folder: Path, adaptation: str, **settings: Any) -> Turn:
    """Return one round of what an adaptation asks the training clients, all of them.

    Raises:
        ValueError: It asks nothing.

    """
    made = assembly(work, workers=1, adapt=adaptation, **settings)
    client_pool = _pool(made, folder)
    base = {n: t.clone() for n, t in initial(made.model).items()}
    [ask] = _questions(made, client_pool, base).values()

    def turn() -> None:
        ask()

    return turn


def merges(work: Work, folder: Path, strategy: str, **settings: Any) -> Turn:
    """Return DUA's way to every client's model: importances of two experts, and their merge.

    The experts are the initial network twice; their training is the server's, and no part of it.
    """
    made = assembly(work, workers=1, strategy=strategy, tasks=len(EXPERTS), **settings)
    client_pool, everyone = _pool(made, folder), tuple(range(work.clients))
    start = {n: t.clone() for n, t in initial(made.model).items()}
    bare: Any = made.worker.strategy
    on_head = head_of(made.model)
    body = {n: t for n, t in start.items() if n not in on_head}
    head = {n: start[n] for n in sorted(on_head)}
    classes = made.benchmark.num_classes
    experts = tuple(
        Expert(name, body, head, (TaskHead(name, classes),), 0.0, 0, {}, name) for name in EXPERTS
    )
    trained = {n for n, _ in made.model.named_parameters()} - on_head
    alike = {n: torch.ones_like(body[n]) for n in trained}
    strategy_on_server = replace(
        bare, tasks=EXPERTS, experts=experts, server_importances=(alike,) * len(EXPERTS)
    )
    method = StrategyWithState(strategy_on_server)

    def turn() -> None:
        method.begin(start, everyone)
        for task in range(len(EXPERTS)):
            method.round(_exchange(client_pool, task + 1), everyone)
        for first in range(0, work.clients, made.plan.cohort_size):
            method.models(everyone[first : first + made.plan.cohort_size])

    return turn


def _pool(made: Assembly, folder: Path) -> InProcessClients:
    states = ClientStates(folder)
    size = made.plan.cohort_size
    return InProcessClients(made.worker, cohort_size=size, client_states=states)


def _exchange(client_pool: InProcessClients, number: int) -> Exchange:
    """The exchanges of a round in which every client has to answer, and nothing is written."""

    def ignored(_: object) -> None:
        pass

    return Exchange(
        client_pool, number, min_replies=1.0, max_update_norm=0.0, record=ignored, progress=ignored
    )


def _questions(
    made: Assembly, client_pool: InProcessClients, base: Weights
) -> dict[str, Callable[[], Weights]]:
    """By adaptation that asks something: a function that asks it for the first time."""
    seen = tuple(made.benchmark.seen)
    asking = {}
    for adaptation in made.worker.adaptations:
        for part in adaptation.in_turn():
            if (query := part.query()) is not None:
                sent = Sent(seen, repeat(base, len(seen)), {"server-round": 1})
                expected = query.expected(made.model, row(sent.weights, 0))

                def ask(
                    action: str = query.action, sent: Sent = sent, expected: Weights = expected
                ) -> Weights:
                    return pooled_answer(_exchange(client_pool, 1), action, sent, expected)

                asking[part.name] = ask
    return asking
