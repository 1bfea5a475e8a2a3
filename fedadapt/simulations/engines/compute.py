"""What any engine's worker does with some of a request's clients, wherever it runs."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from fedadapt.client.failures import guarded
from fedadapt.messages import Answers, Config, Failure, Sent, bytes_up
from fedadapt.server.client_pool import EvaluationAnswers, EvaluationRequest
from fedadapt.simulations.collected_models import CollectedModels
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights, rows

Result = TypeVar("Result")
Kept = Sequence[Mapping[str, Weights]]


class Query(NamedTuple):
    """What ``ClientPool.ask`` asks, whoever is asked."""

    action: str
    round: int
    config: Config


def answer(
    worker: Worker, query: Query, clients: tuple[int, ...], models: Weights, states: Kept
) -> list[Answers]:
    """Compute ``query`` for clients; ``models`` and ``states`` have a row for each."""

    def compute(first: int, last: int) -> Answers:
        some = clients[first:last]
        sent = Sent(some, rows(models, first, last), query.config)
        began = time.perf_counter()
        update = worker.answer(query.action, query.round, sent, states[first:last])
        seconds = (time.perf_counter() - began) / len(some)
        return Answers(some, update, {}, bytes_up(update, some), dict.fromkeys(some, seconds))

    return _piecewise(clients, compute, lambda client, why: Answers((), None, {client: why}))


def evaluate(worker: Worker, request: EvaluationRequest, states: Kept) -> list[EvaluationAnswers]:
    """Score ``request.models`` on ``request.clients``; both and ``states`` have equal lengths."""
    methods = [a for a in worker.adaptations if a.name in request.adaptations]

    def compute(first: int, last: int) -> EvaluationAnswers:
        some = request.clients[first:last]
        collected = CollectedModels(request.collect) if request.collect else None
        began = time.perf_counter()
        found = worker.at(request.task).evaluate(
            request.round,
            some,
            {name: rows(w, first, last) for name, w in request.models.items()},
            states[first:last],
            adaptations=methods,
            pooled=request.pooled,
            on_global=request.on_global,
            curves=request.curves,
            collected=collected,
        )
        seconds = (time.perf_counter() - began) / len(some)
        models = collected.models if collected is not None else {}
        size = 8 * 3 * len(found) // len(some)
        return EvaluationAnswers(some, found, {}, size, seconds, models)

    return _piecewise(
        request.clients, compute, lambda client, why: EvaluationAnswers((), [], {client: why})
    )


def _piecewise(
    clients: tuple[int, ...],
    compute: Callable[[int, int], Result],
    failed: Callable[[int, Failure], Result],
) -> list[Result]:
    """Compute all at once; where that fails client by client: one client's fault is its own."""

    def run(first: int, last: int) -> list[Result]:
        result = guarded(lambda: compute(first, last))
        if not isinstance(result, Failure):
            return [result]
        if last - first == 1:
            return [failed(clients[first], result)]
        return [r for d in range(first, last) for r in run(d, d + 1)]

    return run(0, len(clients))
