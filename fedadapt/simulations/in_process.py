"""The default engine: every device computed here, cohort by cohort, without messages."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch

from fedadapt.adaptations import Adaptation
from fedadapt.client.guard import guarded
from fedadapt.messages import Answers, Failure, Sent, bytes_up
from fedadapt.server.fleet import EvaluationAnswers, EvaluationRequest
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights, is_finite, row, rows

Result = TypeVar("Result")


class InProcessFleet(AbstractContextManager["InProcessFleet"]):
    """Computes cohorts of ``cohort_size`` devices on ``num_threads`` threads.

    Two threads computing two devices beat two threads sharing one device's operators, so torch's
    own threads are set to one while this is open.
    """

    def __init__(self, worker: Worker, *, num_threads: int = 1, cohort_size: int = 1) -> None:
        self._worker = worker
        self._cohort_size = cohort_size
        self._num_threads = num_threads
        self._kept: dict[int, dict[str, Weights]] = {}

    def __enter__(self) -> "InProcessFleet":
        self._threads_before = torch.get_num_threads()
        if self._num_threads > 1:
            torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self._num_threads)
        return self

    def __exit__(self, *error: Any) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._threads_before)

    def ready(self) -> Sequence[int]:
        return range(self._worker.benchmark.num_devices)

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        def compute(first: int, last: int) -> Answers:
            devices = sent.devices[first:last]
            part = Sent(devices, rows(sent.weights, first, last), sent.config)
            kept = [self._kept.get(d, {}) for d in devices]
            began = time.perf_counter()
            update = self._worker.answer(action, round, part, kept)
            seconds = (time.perf_counter() - began) / len(devices)
            return Answers(
                devices, update, {}, bytes_up(update, devices), dict.fromkeys(devices, seconds)
            )

        def failed(device: int, failure: Failure) -> Answers:
            return Answers((), None, {device: failure})

        for answers in self._each(sent.devices, compute, failed):
            self._remember(answers)
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
                [self._kept.get(d, {}) for d in devices],
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

    def kept(self) -> dict[int, dict[str, Weights]]:
        return {device: dict(parts) for device, parts in self._kept.items()}

    def restore(self, kept: Mapping[int, Mapping[str, Weights]]) -> None:
        self._kept = {device: dict(parts) for device, parts in kept.items()}

    def _remember(self, answers: Answers) -> None:
        if answers.update is None:
            return
        for index, device in enumerate(answers.devices):
            mine = {part: row(weights, index) for part, weights in answers.update.kept.items()}
            # A device whose training diverged keeps what it had, or it would never recover.
            if mine and all(is_finite(weights) for weights in mine.values()):
                copies = {p: {n: t.clone() for n, t in w.items()} for p, w in mine.items()}
                self._kept.setdefault(device, {}).update(copies)

    def _each(
        self,
        devices: Sequence[int],
        compute: Callable[[int, int], Result],
        failed: Callable[[int, Failure], Result],
    ) -> Iterator[Result]:
        """Compute all cohorts side by side, yield in order, holding only a few results.

        A cohort that fails is computed again device by device: one device's fault is its own.
        """

        def run(first: int, last: int) -> list[Result]:
            result = guarded(lambda: compute(first, last))
            if not isinstance(result, Failure):
                return [result]
            if last - first == 1:
                return [failed(devices[first], result)]
            return [r for d in range(first, last) for r in run(d, d + 1)]

        waiting: deque[Future[list[Result]]] = deque()
        for first in range(0, len(devices), self._cohort_size):
            last = min(first + self._cohort_size, len(devices))
            waiting.append(self._pool.submit(run, first, last))
            if len(waiting) > 2 * self._num_threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
