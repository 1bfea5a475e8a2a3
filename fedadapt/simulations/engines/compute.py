"""Compute a request for some of its clients: the part of a worker that all engines share."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from fedadapt.client.failures import guarded, pieces, timed_out, within
from fedadapt.messages import Answers, Config, Failure, Sent, bytes_up
from fedadapt.server.client_pool import EvaluationAnswers, EvaluationRequest, result_bytes
from fedadapt.simulations.collected_models import CollectedModels
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights, rows

Result = TypeVar("Result")
Kept = Sequence[Mapping[str, Weights]]


class Query(NamedTuple):
    """The arguments of ``ClientPool.ask`` that are the same for all clients."""

    action: str
    round: int
    config: Config


def answer(
    worker: Worker, query: Query, clients: tuple[int, ...], models: Weights, states: Kept
) -> list[Answers]:
    """Answer ``query`` for clients; ``models`` and ``states`` have a row for each."""

    def compute(first: int, last: int) -> Answers:
        members = clients[first:last]
        sent = Sent(members, rows(models, first, last), query.config)
        began = _clock(worker)
        update = worker.answer(query.action, query.round, sent, states[first:last])
        seconds = (_clock(worker) - began) / len(members)
        return Answers(
            members, update, {}, bytes_up(update, members), dict.fromkeys(members, seconds)
        )

    return _piecewise(
        worker, clients, compute, lambda client, why: Answers((), None, {client: why})
    )


def evaluate(worker: Worker, request: EvaluationRequest, states: Kept) -> list[EvaluationAnswers]:
    """Score the models of ``request`` on its clients; they and ``states`` have equal lengths."""
    methods = worker.methods(request.adaptations)

    def compute(first: int, last: int) -> EvaluationAnswers:
        members = request.clients[first:last]
        collected = CollectedModels(request.collect) if request.collect else None
        began = _clock(worker)
        evaluated = worker.at(request.task).evaluate(
            request.round,
            members,
            {name: rows(w, first, last) for name, w in request.models.items()},
            states[first:last],
            on_client=request.on_client,
            adaptations=methods,
            pooled=request.pooled,
            on_global=request.on_global,
            curves=request.curves,
            held_out=request.held_out,
            confidence=request.confidence,
            collected=collected,
        )
        seconds = (_clock(worker) - began) / len(members)
        models = collected.models if collected is not None else {}
        up = result_bytes(evaluated.rows, evaluated.confidences) // len(members)
        return EvaluationAnswers(
            members,
            evaluated.rows,
            {},
            up,
            seconds,
            models,
            evaluated.failures,
            evaluated.confidences,
        )

    return _piecewise(
        worker,
        request.clients,
        compute,
        lambda client, why: EvaluationAnswers((), [], {client: why}),
    )


def _clock(worker: Worker) -> float:
    """Seconds of the CPU, which do not depend on what else the machine does; of a GPU's the time.

    The process of a worker computes nothing but what it is asked.
    """
    return time.process_time() if worker.compute.type == "cpu" else time.perf_counter()


def were_too_slow(clients: Sequence[int], results: Sequence[Answers | EvaluationAnswers]) -> bool:
    """Whether several clients together took too long, so that each has to be computed alone."""
    failures = (failure for answers in results for failure in answers.failures.values())
    return len(clients) > 1 and any(map(timed_out, failures))


def _piecewise(
    worker: Worker,
    clients: tuple[int, ...],
    compute: Callable[[int, int], Result],
    failed: Callable[[int, Failure], Result],
) -> list[Result]:
    """Compute all clients at once. If that fails, compute each alone, so only the faulty fail.

    All this has to be done by the deadline of so many clients. Those who are not fail, and whoever
    asked has each of several clients computed alone, by a deadline of its own.
    """
    deadline = time.monotonic() + worker.deadlines.of(len(clients))

    def timed(first: int, last: int) -> Result:
        left = deadline - time.monotonic()
        return within(max(left, 0.001), partial(compute, first, last))

    return [
        failed(clients[first], result) if isinstance(result, Failure) else result
        for first, _, result in pieces(len(clients), timed, guarded)
    ]
