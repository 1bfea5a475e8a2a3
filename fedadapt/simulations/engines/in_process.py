"""The engine that computes every client in this process, cohort by cohort."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import torch

from fedadapt.messages import Answers, Sent
from fedadapt.server.client_pool import EvaluationAnswers, EvaluationRequest
from fedadapt.server.client_states import ClientStates
from fedadapt.simulations.engines.compute import Query, answer, evaluate, were_too_slow
from fedadapt.simulations.engines.kept_pages import keep_pages
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights, rows


class InProcessClients(AbstractContextManager["InProcessClients"]):
    """Clients in cohorts of ``cohort_size``, computed one after the other on one thread.

    Networks of this size lose more by splitting an operator over threads than they gain, and lose
    much more on a busy machine. More cores are used by more processes.
    """

    keeps_models = False
    evaluates_in_background = False
    withheld: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self, worker: Worker, *, cohort_size: int = 1, client_states: ClientStates | None = None
    ) -> None:
        self._worker = worker
        self._cohort_size = cohort_size
        self._client_states = client_states or ClientStates()

    def __enter__(self) -> "InProcessClients":
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(1)
        keep_pages()
        return self

    def __exit__(self, *error: Any) -> None:
        torch.set_num_threads(self._threads_before)

    def ready(self) -> Sequence[int]:
        return range(self._worker.benchmark.num_clients)

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        query = Query(action, round, sent.config)
        for first, last in self._cohorts(sent.clients):
            members = sent.clients[first:last]
            models = rows(sent.weights, first, last)
            for answers in self._answers(query, members, models):
                if answers.update is not None:
                    self._client_states.remember(answers.clients, answers.update)
                yield answers

    def _answers(
        self, query: Query, clients: tuple[int, ...], models: Weights
    ) -> Iterator[Answers]:
        results = answer(self._worker, query, clients, models, self._kept(clients))
        if not were_too_slow(clients, results):
            yield from results
            return
        for d, client in enumerate(clients):
            yield from self._answers(query, (client,), rows(models, d, d + 1))

    def evaluate(self, request: EvaluationRequest) -> Iterator[EvaluationAnswers]:
        for first, last in self._cohorts(request.clients, request.at_once):
            members = request.clients[first:last]
            models = {name: rows(w, first, last) for name, w in request.models.items()}
            yield from self._evaluated(request._replace(clients=members, models=models))

    def _evaluated(self, request: EvaluationRequest) -> Iterator[EvaluationAnswers]:
        results = evaluate(self._worker, request, self._kept(request.clients))
        if not were_too_slow(request.clients, results):
            yield from results
            return
        for d, client in enumerate(request.clients):
            models = {name: rows(w, d, d + 1) for name, w in request.models.items()}
            yield from self._evaluated(request._replace(clients=(client,), models=models))

    def states(self) -> Mapping[int, Mapping[str, Weights]]:
        return self._client_states.snapshot()

    def restore(self, states: Mapping[int, Mapping[str, Weights]]) -> None:
        self._client_states.restore(states)

    def _kept(self, clients: Sequence[int]) -> list[Mapping[str, Weights]]:
        return [self._client_states.of(client) for client in clients]

    def _cohorts(self, clients: Sequence[int], at_once: int = 0) -> Iterator[tuple[int, int]]:
        size = min(at_once or self._cohort_size, self._cohort_size)
        for first in range(0, len(clients), size):
            yield first, min(first + size, len(clients))
