"""A fleet whose devices are computed by a crew of workers elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol, cast

import torch

from fedadapt.messages import Answers, Sent, Update
from fedadapt.server.client_pool import EvaluationAnswers, EvaluationRequest
from fedadapt.simulations.engines.jobs import Request, Result
from fedadapt.simulations.engines.scheduler import Crew, Dispatch
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights


class Keeps(Protocol):
    """Where what devices keep between rounds is kept; ``Keeper``."""

    def of(self, device: int) -> Mapping[str, Weights]: ...

    def remember(self, devices: tuple[int, ...], update: Update) -> None: ...

    def snapshot(self) -> dict[int, Mapping[str, Weights]]: ...

    def restore(self, kept: Mapping[int, Mapping[str, Weights]]) -> None: ...


class CrewFleet(AbstractContextManager["CrewFleet"]):
    """What devices keep stays here and travels with their jobs: any worker computes any device."""

    def __init__(self, worker: Worker, crew: Crew, *, cohort_size: int, keeper: Keeps) -> None:
        self._benchmark = worker.benchmark
        self._crew = crew
        self._cohort_size = cohort_size
        self._keeper = keeper
        self._costs: dict[int, float] = {}

    def __enter__(self) -> "CrewFleet":
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(1)  # the cores are the workers'
        try:
            self._crew.start()
        except BaseException:
            torch.set_num_threads(self._threads_before)
            raise
        self._dispatch = Dispatch(self._crew)
        return self

    def __exit__(self, *error: Any) -> None:
        self._crew.stop()
        torch.set_num_threads(self._threads_before)

    def ready(self) -> Sequence[int]:
        return range(self._benchmark.num_devices)

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        """Devices begin at the call, before the first answer is asked for."""
        results = self._results(Request.to_answer(action, round, sent))
        return self._remembered(cast(Iterator[Answers], results))

    def _remembered(self, results: Iterator[Answers]) -> Iterator[Answers]:
        for answers in results:
            if answers.update is not None:
                self._keeper.remember(answers.devices, answers.update)
            yield answers
            del answers  # so that its memory can be used again

    def evaluate(self, request: EvaluationRequest) -> Iterator[EvaluationAnswers]:
        """Devices begin at the call, before the first answer is asked for."""
        return cast(Iterator[EvaluationAnswers], self._results(Request.to_evaluate(request)))

    def kept(self) -> dict[int, Mapping[str, Weights]]:
        return self._keeper.snapshot()

    def restore(self, kept: Mapping[int, Mapping[str, Weights]]) -> None:
        self._keeper.restore(kept)

    def _results(self, request: Request) -> Iterator[Result]:
        def own(first: int, last: int) -> dict[str, Any]:
            return request.own(first, last, self._keeper.of)

        return self._dispatch.each(request, own, self._cohort_size, self._cost)

    def _cost(self, device: int) -> float:
        """Every image costs the same; a device that cannot say fails where it is computed."""
        if device not in self._costs:
            self._costs[device] = 0.0
            with suppress(Exception):
                self._costs[device] = float(self._benchmark.num_train_examples(device))
        return self._costs[device]
