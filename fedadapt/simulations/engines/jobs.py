"""Jobs: a request to clients, cut into parts for workers in other processes, and their replies.

Metadata are small and are sent as they are. Tensors travel beside them, as trees, in the way that
the engine provides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from fedadapt.messages import Answers, Failure, Sent, Update
from fedadapt.records import Confidence, Evaluation, EvaluationFailure
from fedadapt.server.client_pool import EvaluationAnswers, EvaluationRequest, ModelStack
from fedadapt.simulations.engines.compute import Query, answer, evaluate
from fedadapt.simulations.engines.serialization import Tree
from fedadapt.simulations.worker import Worker
from fedadapt.weights import Weights, is_shared, rows

Result = Answers | EvaluationAnswers
Asked = Query | EvaluationRequest  # the latter without clients and tensors

SIDE_BY_SIDE = ("weights",)
"""The parts of a reply that the server sums, client by client."""


class Job(NamedTuple):
    """A question, and the clients that it is to be computed for."""

    asked: Asked
    clients: tuple[int, ...]


class Reply(NamedTuple):
    """The results of a job: each is a tuple of metadata and a branch of every tree."""

    metadata: list[tuple]  # type: ignore[type-arg]
    parts: dict[str, Tree]  # parts are needed for different lengths of time


@dataclass(frozen=True, eq=False)
class Request:
    """The same question to many clients, with the tensors it needs."""

    asked: Asked
    clients: tuple[int, ...]
    common: dict[str, Tree] = field(default_factory=dict)  # for all: models [1, ...], pooled [...]
    models: dict[str, Weights] = field(default_factory=dict)  # of each client, [D, ...]

    @staticmethod
    def to_answer(action: str, round: int, sent: Sent) -> "Request":
        query = Query(action, round, dict(sent.config))
        return Request(query, sent.clients, *_split_shared({"": sent.weights}))

    @staticmethod
    def to_evaluate(request: EvaluationRequest) -> "Request":
        common, per_client = _split_shared(request.models)
        asked = request._replace(clients=(), models={}, pooled={})
        return Request(asked, request.clients, common | {"pooled": request.pooled}, per_client)

    def job(self, first: int, last: int) -> Job:
        return Job(self.asked, self.clients[first:last])

    def per_client(
        self, first: int, last: int, state_of: Callable[[int], Mapping[str, Weights]]
    ) -> dict[str, Tree]:
        """Return the tensors of some clients only: their models and their states."""
        states = {i: state_of(client) for i, client in enumerate(self.clients[first:last])}
        models = {name: rows(w, first, last) for name, w in self.models.items()}
        return {"models": models, "kept": {i: state for i, state in states.items() if state}}


def perform(worker: Worker, job: Job, common: Tree, per_client: Tree) -> Reply:
    """Compute a job; ``KeyboardInterrupt`` is not caught."""
    count = len(job.clients)
    models = {
        name: {n: t.expand(count, *t.shape[1:]) for n, t in weights.items()}
        for name, weights in common.get("models", {}).items()
    } | per_client.get("models", {})
    states = per_client.get("kept", {})
    states = [states.get(i, {}) for i in range(count)]
    if isinstance(job.asked, Query):
        return _reply_of(answer(worker, job.asked, job.clients, models.get("", {}), states))
    pooled = common.get("pooled", {})
    request = job.asked._replace(clients=job.clients, models=models, pooled=pooled)
    answers = evaluate(worker, request, states)
    metadata = [
        (
            a.clients,
            [tuple(row) for row in a.rows],
            _plain(a.failures),
            a.bytes_up,
            a.seconds,
            [tuple(failure) for failure in a.failed],
            [tuple(confidence) for confidence in a.confidences],
        )
        for a in answers
    ]
    models = {i: _tree(a.models) for i, a in enumerate(answers) if a.models}
    return Reply(metadata, {"models": models} if models else {})


def results(job: Job, reply: Reply) -> list[Result]:
    """Convert a reply into the answers of a client pool."""
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
            _failures(failures),
            up,
            seconds,
            _models(models.get(i, {})),
            [EvaluationFailure(*failure) for failure in failed],
            [Confidence(*confidence) for confidence in confidences],
        )
        for i, (clients, rows, failures, up, seconds, failed, confidences) in enumerate(
            reply.metadata
        )
    ]


def given_up(job: Job, reason: str) -> list[Result]:
    """Return the result for clients that no worker can compute: an error each."""
    failures = {client: Failure("error", reason) for client in job.clients}
    if isinstance(job.asked, Query):
        return [Answers((), None, failures)]
    return [EvaluationAnswers((), [], failures)]


def _split_shared(models: Mapping[str, Weights]) -> tuple[dict[str, Tree], dict[str, Weights]]:
    """Split models into those shared by all clients, as one row, and those of each client."""
    common = {name: rows(w, 0, 1) for name, w in models.items() if is_shared(w)}
    return {"models": common}, {name: w for name, w in models.items() if name not in common}


def _reply_of(answers: Sequence[Answers]) -> Reply:
    metadata = [(a.clients, _plain(a.failures), a.bytes_up, a.seconds) for a in answers]
    updates = {i: a.update for i, a in enumerate(answers) if a.update is not None}
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
