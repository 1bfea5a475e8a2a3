"""Every device computed in this process, cohort by cohort, without messages."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from fedadapt.messages import Answers, Sent
from fedadapt.server.client_pool import EvaluationAnswers, EvaluationRequest
from fedadapt.simulations.engines.client_states import Keeper
from fedadapt.simulations.engines.compute import Question, answer, evaluate
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights, rows


class InProcessFleet(AbstractContextManager["InProcessFleet"]):
    """Computes cohorts of ``cohort_size`` devices one after the other.

    On one thread: networks of this size lose more on sharing an operator than they gain, and lose
    all on a busy machine. More cores are for more processes.
    """

    def __init__(
        self, worker: Worker, *, cohort_size: int = 1, keeper: Keeper | None = None
    ) -> None:
        self._worker = worker
        self._cohort_size = cohort_size
        self._keeper = keeper or Keeper()

    def __enter__(self) -> "InProcessFleet":
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(1)
        return self

    def __exit__(self, *error: Any) -> None:
        torch.set_num_threads(self._threads_before)

    def ready(self) -> Sequence[int]:
        return range(self._worker.benchmark.num_devices)

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        question = Question(action, round, sent.config)
        for first, last in self._cohorts(sent.devices):
            some = sent.devices[first:last]
            models = rows(sent.weights, first, last)
            for answers in answer(self._worker, question, some, models, self._kept(some)):
                if answers.update is not None:
                    self._keeper.remember(answers.devices, answers.update)
                yield answers

    def evaluate(self, request: EvaluationRequest) -> Iterator[EvaluationAnswers]:
        for first, last in self._cohorts(request.devices):
            some = request.devices[first:last]
            models = {name: rows(w, first, last) for name, w in request.models.items()}
            part = request._replace(devices=some, models=models)
            yield from evaluate(self._worker, part, self._kept(some))

    def kept(self) -> Mapping[int, Mapping[str, Weights]]:
        return self._keeper.snapshot()

    def restore(self, kept: Mapping[int, Mapping[str, Weights]]) -> None:
        self._keeper.restore(kept)

    def _kept(self, devices: Sequence[int]) -> list[Mapping[str, Weights]]:
        return [self._keeper.of(device) for device in devices]

    def _cohorts(self, devices: Sequence[int]) -> Iterator[tuple[int, int]]:
        for first in range(0, len(devices), self._cohort_size):
            yield first, min(first + self._cohort_size, len(devices))
