"""Every device computed in this process, cohort by cohort, without messages."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch

from fedadapt.adaptations import Adaptation
from fedadapt.client.guard import guarded
from fedadapt.messages import Answers, Failure, Sent, bytes_up
from fedadapt.server.fleet import EvaluationAnswers, EvaluationRequest
from fedadapt.simulations.keeping import Keeper
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights, rows

Result = TypeVar("Result")


class InProcessFleet(AbstractContextManager["InProcessFleet"]):
    """Computes cohorts of ``cohort_size`` devices one after the other.

    On one thread: networks of this size lose more on sharing an operator than they gain, and lose
    all on a busy machine. More cores are for more processes.
    """

    def __init__(
        self,
        worker: Worker,
        *,
        cohort_size: int = 1,
        keeper: Keeper | None = None,
    ) -> None:
        self._worker = worker
        self._keeper = keeper or Keeper()
        self._cohort_size = cohort_size

    def __enter__(self) -> "InProcessFleet":
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(1)
        return self

    def __exit__(self, *error: Any) -> None:
        torch.set_num_threads(self._threads_before)

    def ready(self) -> Sequence[int]:
        return range(self._worker.benchmark.num_devices)

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        def compute(first: int, last: int) -> Answers:
            devices = sent.devices[first:last]
            part = Sent(devices, rows(sent.weights, first, last), sent.config)
            kept = [self._keeper.of(d) for d in devices]
            began = time.perf_counter()
            update = self._worker.answer(action, round, part, kept)
            seconds = (time.perf_counter() - began) / len(devices)
            return Answers(
                devices, update, {}, bytes_up(update, devices), dict.fromkeys(devices, seconds)
            )

        def failed(device: int, failure: Failure) -> Answers:
            return Answers((), None, {device: failure})

        for answers in self._each(sent.devices, compute, failed):
            if answers.update is not None:
                self._keeper.remember(answers.devices, answers.update)
            yield answers

    def evaluate(self, request: EvaluationRequest) -> Iterator[EvaluationAnswers]:
        methods: list[Adaptation] = [
            a for a in self._worker.adaptations if a.name in request.adaptations
        ]

        def compute(first: int, last: int) -> EvaluationAnswers:
            devices = request.devices[first:last]
            began = time.perf_counter()
            found = self._worker.at(request.task).evaluate(
                request.round,
                devices,
                {name: rows(w, first, last) for name, w in request.models.items()},
                [self._keeper.of(d) for d in devices],
                adaptations=methods,
                fisher_of_all=request.fisher_of_all,
                on_global=request.on_global,
                curves=request.curves,
            )
            seconds = (time.perf_counter() - began) / len(devices)
            per_device = 8 * 3 * len(found) // len(devices)
            return EvaluationAnswers(devices, found, {}, per_device, seconds)

        def failed(device: int, failure: Failure) -> EvaluationAnswers:
            return EvaluationAnswers((), [], {device: failure})

        return self._each(request.devices, compute, failed)

    def kept(self) -> Mapping[int, Mapping[str, Weights]]:
        return self._keeper.snapshot()

    def restore(self, kept: Mapping[int, Mapping[str, Weights]]) -> None:
        self._keeper.restore(kept)

    def _each(
        self,
        devices: Sequence[int],
        compute: Callable[[int, int], Result],
        failed: Callable[[int, Failure], Result],
    ) -> Iterator[Result]:
        """Compute cohort by cohort, in order.

        One that fails is computed again device by device: one device's fault is its own.
        """

        def run(first: int, last: int) -> Iterator[Result]:
            result = guarded(lambda: compute(first, last))
            if not isinstance(result, Failure):
                yield result
            elif last - first == 1:
                yield failed(devices[first], result)
            else:
                for d in range(first, last):
                    yield from run(d, d + 1)

        for first in range(0, len(devices), self._cohort_size):
            yield from run(first, min(first + self._cohort_size, len(devices)))
