"""A request to clients cut into jobs for workers elsewhere, and what they say.

Facts are small and travel as they are; tensors travel beside them, in trees, in whatever way the
engine has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from fedadapt.messages import Answers, Failure, Sent, Update
from fedadapt.records import Evaluation
from fedadapt.server.client_pool import EvaluationAnswers, EvaluationRequest, ModelStack
from fedadapt.simulations.engines.compute import Query, answer, evaluate
from fedadapt.simulations.engines.serialization import Tree
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights, is_shared, rows

Result = Answers | EvaluationAnswers
Asked = Query | EvaluationRequest  # the latter without clients and tensors


class Job(NamedTuple):
    """What to compute for which clients."""

    asked: Asked
    clients: tuple[int, ...]


class Reply(NamedTuple):
    """What came of a job: a result or several, each a tuple of facts and a branch of the trees."""

    metadata: list[tuple]  # type: ignore[type-arg]
    parts: dict[str, Tree]  # what is needed for how long differs from part to part


@dataclass(frozen=True, eq=False)
class Request:
    """The same question to many clients."""

    asked: Asked
    clients: tuple[int, ...]
    common: dict[str, Tree] = field(default_factory=dict)  # for all: models [1, ...], pooled [...]
    models: dict[str, Weights] = field(default_factory=dict)  # of each client, [D, ...]

    @staticmethod
    def to_answer(action: str, round: int, sent: Sent) -> "Request":
        query = Query(action, round, dict(sent.config))
        return Request(query, sent.clients, *_told_apart({"": sent.weights}))

    @staticmethod
    def to_evaluate(request: EvaluationRequest) -> "Request":
        common, own = _told_apart(request.models)
        asked = request._replace(clients=(), models={}, pooled={})
        return Request(asked, request.clients, common | {"pooled": request.pooled}, own)

    def job(self, first: int, last: int) -> Job:
        return Job(self.asked, self.clients[first:last])

    def own(
        self, first: int, last: int, state_of: Callable[[int], Mapping[str, Weights]]
    ) -> dict[str, Tree]:
        """The tensors that only some clients get: their models, and what they keep."""
        states = {i: state_of(client) for i, client in enumerate(self.clients[first:last])}
        models = {name: rows(w, first, last) for name, w in self.models.items()}
        return {"models": models, "kept": {i: state for i, state in states.items() if state}}


def perform(worker: Worker, job: Job, common: Tree, own: Tree) -> Reply:
    """Do a job; Ctrl-C passes through."""
    count = len(job.clients)
    models = {
        name: {n: t.expand(count, *t.shape[1:]) for n, t in weights.items()}
        for name, weights in common.get("models", {}).items()
    } | own.get("models", {})
    states = own.get("kept", {})
    states = [states.get(i, {}) for i in range(count)]
    if isinstance(job.asked, Query):
        return _told(answer(worker, job.asked, job.clients, models.get("", {}), states))
    pooled = common.get("pooled", {})
    request = job.asked._replace(clients=job.clients, models=models, pooled=pooled)
    answers = evaluate(worker, request, states)
    metadata = [
        (a.clients, [tuple(row) for row in a.rows], _plain(a.failures), a.bytes_up, a.seconds)
        for a in answers
    ]
    models = {i: _tree(a.models) for i, a in enumerate(answers) if a.models}
    return Reply(metadata, {"models": models} if models else {})


def results(job: Job, reply: Reply) -> list[Result]:
    """A reply as the fleet's answers."""
    if isinstance(job.asked, Query):
        return [
            Answers(clients, _update(reply.parts, i) if clients else None, _failures(failed), *rest)
            for i, (clients, failed, *rest) in enumerate(reply.metadata)
        ]
    models = reply.parts.get("models", {})
    return [
        EvaluationAnswers(
            clients,
            [Evaluation(*row) for row in rows],
            _failures(failed),
            size,
            seconds,
            _models(models.get(i, {})),
        )
        for i, (clients, rows, failed, size, seconds) in enumerate(reply.metadata)
    ]


def given_up(job: Job, reason: str) -> list[Result]:
    """The result for clients that no worker can compute."""
    failures = {client: Failure("error", reason) for client in job.clients}
    if isinstance(job.asked, Query):
        return [Answers((), None, failures)]
    return [EvaluationAnswers((), [], failures)]


def _told_apart(models: Mapping[str, Weights]) -> tuple[dict[str, Tree], dict[str, Weights]]:
    """Models that are one for all, as one row, and those that are not."""
    common = {name: rows(w, 0, 1) for name, w in models.items() if is_shared(w)}
    return {"models": common}, {name: w for name, w in models.items() if name not in common}


def _told(found: Sequence[Answers]) -> Reply:
    metadata = [(a.clients, _plain(a.failures), a.bytes_up, a.seconds) for a in found]
    updates = {i: a.update for i, a in enumerate(found) if a.update is not None}
    numbers: dict[int, dict[str, Tree | Tensor]] = {
        i: {"metrics": u.metrics, "num-examples": u.num_examples} for i, u in updates.items()
    }
    parts: dict[str, Tree] = {
        "numbers": numbers,
        "weights": {i: u.weights for i, u in updates.items() if u.weights},
        "report": {i: u.report for i, u in updates.items() if u.report},
        "kept": {i: u.states for i, u in updates.items() if u.states},
    }
    return Reply(metadata, {name: tree for name, tree in parts.items() if tree})


def _update(parts: dict[str, Tree], index: int) -> Update:
    numbers = parts["numbers"][index]
    return Update(
        weights=parts.get("weights", {}).get(index, {}),
        num_examples=numbers["num-examples"],
        metrics=numbers.get("metrics", {}),
        report=parts.get("report", {}).get(index, {}),
        states=parts.get("kept", {}).get(index, {}),
    )


def _tree(models: Mapping[str, Mapping[str, ModelStack]]) -> dict[str, dict[str, Tree]]:
    """Models that were collected, on their way to the server."""
    return {
        model: {adaptation: stack._asdict() for adaptation, stack in adapted.items()}
        for model, adapted in models.items()
    }


def _models(tree: Tree) -> dict[str, dict[str, ModelStack]]:
    """The inverse of ``_tree``."""
    return {
        model: {adaptation: ModelStack(**stack) for adaptation, stack in adapted.items()}
        for model, adapted in tree.items()
    }


def _plain(failures: Mapping[int, Failure]) -> dict[int, tuple[str, str]]:
    return {client: (outcome, why) for client, (outcome, why) in failures.items()}


def _failures(plain: Mapping[int, tuple[str, str]]) -> dict[int, Failure]:
    return {client: Failure(*failure) for client, failure in plain.items()}  # type: ignore[arg-type]
