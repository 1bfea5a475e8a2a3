"""A request to devices cut into jobs for workers elsewhere, and what they say.

Facts are small and travel as they are; tensors travel beside them, in trees, in whatever way the
engine has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from fedadapt.messages import Answers, Failure, Sent, Update
from fedadapt.records import Evaluation
from fedadapt.server.client_pool import EvaluationAnswers, EvaluationRequest
from fedadapt.simulations.engines.compute import Question, answer, evaluate
from fedadapt.simulations.engines.serialization import Tree, is_one_for_all
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights, rows

Result = Answers | EvaluationAnswers
Asked = Question | EvaluationRequest  # the latter without devices and tensors


class Job(NamedTuple):
    """What to compute for which devices."""

    asked: Asked
    devices: tuple[int, ...]


class Reply(NamedTuple):
    """What came of a job: a result or several, each a tuple of facts and a branch of the trees."""

    facts: list[tuple]  # type: ignore[type-arg]
    parts: dict[str, Tree]  # what is needed for how long differs from part to part


@dataclass(frozen=True, eq=False)
class Request:
    """The same question to many devices."""

    asked: Asked
    devices: tuple[int, ...]
    common: dict[str, Tree] = field(default_factory=dict)  # for all: models [1, ...], fisher [...]
    models: dict[str, Weights] = field(default_factory=dict)  # of each device, [D, ...]

    @staticmethod
    def to_answer(action: str, round: int, sent: Sent) -> "Request":
        question = Question(action, round, dict(sent.config))
        return Request(question, sent.devices, *_told_apart({"": sent.weights}))

    @staticmethod
    def to_evaluate(request: EvaluationRequest) -> "Request":
        common, own = _told_apart(request.models)
        asked = request._replace(devices=(), models={}, fisher_of_all=None)
        fisher = {"fisher": request.fisher_of_all} if request.fisher_of_all is not None else {}
        return Request(asked, request.devices, common | fisher, own)

    def job(self, first: int, last: int) -> Job:
        return Job(self.asked, self.devices[first:last])

    def own(
        self, first: int, last: int, kept: Callable[[int], Mapping[str, Weights]]
    ) -> dict[str, Tree]:
        """The tensors that only some devices get: their models, and what they keep."""
        states = {i: kept(device) for i, device in enumerate(self.devices[first:last])}
        models = {name: rows(w, first, last) for name, w in self.models.items()}
        return {"models": models, "kept": {i: state for i, state in states.items() if state}}


def perform(worker: Worker, job: Job, common: Tree, own: Tree) -> Reply:
    """Do a job; Ctrl-C passes through."""
    count = len(job.devices)
    models = {
        name: {n: t.expand(count, *t.shape[1:]) for n, t in weights.items()}
        for name, weights in common.get("models", {}).items()
    } | own.get("models", {})
    states = own.get("kept", {})
    kept = [states.get(i, {}) for i in range(count)]
    if isinstance(job.asked, Question):
        return _told(answer(worker, job.asked, job.devices, models.get("", {}), kept))
    request = job.asked._replace(
        devices=job.devices, models=models, fisher_of_all=common.get("fisher")
    )
    facts = [
        (a.devices, [tuple(row) for row in a.rows], _plain(a.failures), a.bytes_up, a.seconds)
        for a in evaluate(worker, request, kept)
    ]
    return Reply(facts, {})


def results(job: Job, reply: Reply) -> list[Result]:
    """A reply as the fleet's answers."""
    if isinstance(job.asked, Question):
        return [
            Answers(devices, _update(reply.parts, i) if devices else None, _failures(failed), *rest)
            for i, (devices, failed, *rest) in enumerate(reply.facts)
        ]
    return [
        EvaluationAnswers(devices, [Evaluation(*row) for row in rows], _failures(failed), *rest)
        for devices, rows, failed, *rest in reply.facts
    ]


def given_up(job: Job, reason: str) -> list[Result]:
    """The result for devices that no worker can compute."""
    failures = {device: Failure("error", reason) for device in job.devices}
    if isinstance(job.asked, Question):
        return [Answers((), None, failures)]
    return [EvaluationAnswers((), [], failures)]


def _told_apart(models: Mapping[str, Weights]) -> tuple[dict[str, Tree], dict[str, Weights]]:
    """Models that are one for all, as one row, and those that are not."""
    common = {name: rows(w, 0, 1) for name, w in models.items() if is_one_for_all(w)}
    return {"models": common}, {name: w for name, w in models.items() if name not in common}


def _told(found: Sequence[Answers]) -> Reply:
    facts = [(a.devices, _plain(a.failures), a.bytes_up, a.seconds) for a in found]
    updates = {i: a.update for i, a in enumerate(found) if a.update is not None}
    numbers: dict[int, dict[str, Tree | Tensor]] = {
        i: {"metrics": u.metrics, "num-examples": u.num_examples} for i, u in updates.items()
    }
    parts: dict[str, Tree] = {
        "numbers": numbers,
        "weights": {i: u.weights for i, u in updates.items() if u.weights},
        "report": {i: u.report for i, u in updates.items() if u.report},
        "kept": {i: u.kept for i, u in updates.items() if u.kept},
    }
    return Reply(facts, {name: tree for name, tree in parts.items() if tree})


def _update(parts: dict[str, Tree], index: int) -> Update:
    numbers = parts["numbers"][index]
    return Update(
        weights=parts.get("weights", {}).get(index, {}),
        num_examples=numbers["num-examples"],
        metrics=numbers.get("metrics", {}),
        report=parts.get("report", {}).get(index, {}),
        kept=parts.get("kept", {}).get(index, {}),
    )


def _plain(failures: Mapping[int, Failure]) -> dict[int, tuple[str, str]]:
    return {device: (outcome, why) for device, (outcome, why) in failures.items()}


def _failures(plain: Mapping[int, tuple[str, str]]) -> dict[int, Failure]:
    return {device: Failure(*failure) for device, failure in plain.items()}  # type: ignore[arg-type]
