"""Clients that are computed by a pool of workers in other processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from types import MappingProxyType
from typing import Any, Protocol, cast

import torch

from fedadapt.messages import Answers, Sent, Update
from fedadapt.server.client_pool import EvaluationAnswers, EvaluationRequest
from fedadapt.simulations.engines.jobs import Request, Result
from fedadapt.simulations.engines.scheduler import Scheduler, WorkerPool
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights


class Keeps(Protocol):
    """A store of client states; ``ClientStates`` is one."""

    def of(self, client: int) -> Mapping[str, Weights]: ...

    def remember(self, clients: tuple[int, ...], update: Update) -> None: ...

    def snapshot(self) -> dict[int, Mapping[str, Weights]]: ...

    def restore(self, states: Mapping[int, Mapping[str, Weights]]) -> None: ...


class WorkerPoolClients(AbstractContextManager["WorkerPoolClients"]):
    """Clients whose states stay here and travel with each job: any worker computes any client."""

    keeps_models = False
    evaluates_in_background = True
    withheld: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self, worker: Worker, worker_pool: WorkerPool, *, cohort_size: int, client_states: Keeps
    ) -> None:
        self._benchmark, self._limit = worker.benchmark, worker.deadlines.of
        self._worker_pool = worker_pool
        self._cohort_size = cohort_size
        self._client_states = client_states
        self._costs: dict[int, float] = {}

    def __enter__(self) -> "WorkerPoolClients":
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(1)  # the workers use the cores
        try:
            self._worker_pool.start()
        except BaseException:
            torch.set_num_threads(self._threads_before)
            raise
        self._scheduler = Scheduler(self._worker_pool, self._limit)
        return self

    def __exit__(self, *error: Any) -> None:
        self._worker_pool.stop()
        torch.set_num_threads(self._threads_before)

    def ready(self) -> Sequence[int]:
        return range(self._benchmark.num_clients)

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        """Ask clients; they begin at the call, before the first answer is taken."""
        request = Request.to_answer(action, round, sent)
        results = self._results(request, self._cohort_size, self._client_states.of)
        return self._remembered(cast(Iterator[Answers], results))

    def _remembered(self, results: Iterator[Answers]) -> Iterator[Answers]:
        for answers in results:
            if answers.update is not None:
                self._client_states.remember(answers.clients, answers.update)
            yield answers
            del answers  # frees its memory for reuse

    def evaluate(self, request: EvaluationRequest) -> Iterator[EvaluationAnswers]:
        """Evaluate clients, with the states that they have now.

        They begin when something else is asked for, which goes first, or when the first answer is
        taken: workers evaluate while the server merges what it asked for.
        """
        states = self._client_states.snapshot()

        def state_of(client: int) -> Mapping[str, Weights]:
            return dict(states.get(client, {}))

        size = min(request.at_once or self._cohort_size, self._cohort_size)
        results = self._results(Request.to_evaluate(request), size, state_of, in_background=True)
        return cast(Iterator[EvaluationAnswers], results)

    def states(self) -> dict[int, Mapping[str, Weights]]:
        return self._client_states.snapshot()

    def restore(self, states: Mapping[int, Mapping[str, Weights]]) -> None:
        self._client_states.restore(states)

    def _results(
        self,
        request: Request,
        cohort_size: int,
        state_of: Callable[[int], Mapping[str, Weights]],
        *,
        in_background: bool = False,
    ) -> Iterator[Result]:
        def per_client(first: int, last: int) -> dict[str, Any]:
            return request.per_client(first, last, state_of)

        cost = self._cost_of_evaluation if in_background else self._cost
        return self._scheduler.each(
            request, per_client, cohort_size, cost, in_background=in_background
        )

    def _cost_of_evaluation(self, client: int) -> float:
        """A forward pass, where training takes a backward pass of twice its arithmetic as well."""
        return self._cost(client) / 3

    def _cost(self, client: int) -> float:
        """Return the number of training images; 0 for a client whose data cannot be read."""
        if client not in self._costs:
            self._costs[client] = 0.0
            with suppress(Exception):
                self._costs[client] = float(self._benchmark.num_train_examples(client))
        return self._costs[client]
