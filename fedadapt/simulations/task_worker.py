"""A worker a task: the same client holds images of each, and each has a head of its own."""

from collections.abc import Mapping, Sequence

from fedadapt.messages import Sent, Update
from fedadapt.records import Evaluation
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights


class TaskWorker(Worker):
    """Hands what it is asked to the worker of the task; by itself it is that of the first."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.__dict__.update(workers[0].__dict__)
        self._workers = tuple(workers)

    def at(self, task: int) -> Worker:
        return self._workers[task]

    def answer(
        self, action: str, round: int, sent: Sent, states: Sequence[Mapping[str, Weights]] = ()
    ) -> Update:
        task = int(sent.config.get("task", 0))  # type: ignore[arg-type]
        return self._workers[task].answer(action, round, sent, states)

    def evaluate_everywhere(self, round: int, base: Weights) -> list[Evaluation]:
        return []  # there is no test for everybody
