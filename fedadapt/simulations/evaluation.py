"""Evaluations: models go down, results come up, every client is accounted for."""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from fedadapt.errors import one_line
from fedadapt.records import LOCAL, CommunicationEntry, Confidence, Evaluation, EvaluationFailure
from fedadapt.server.client_pool import (
    ClientPool,
    EvaluationAnswers,
    EvaluationRequest,
    ModelStack,
)
from fedadapt.server.exchange import EVALUATE
from fedadapt.simulations.progress import Progress
from fedadapt.weights import num_bytes, row

NO_METRICS = "egress: 'metrics' is not allowed on this device"
"""The reason of a client that evaluated and keeps the results, since its owner wants it so."""

log = logging.getLogger(__name__)

SaveModels = Callable[[EvaluationRequest, Mapping[str, Mapping[str, ModelStack]]], None]
"""Takes some clients' models, by model and adaptation, as they come back from an evaluation."""


Recorded = Evaluation | Confidence | EvaluationFailure | CommunicationEntry


class _Trial(NamedTuple):
    request: EvaluationRequest
    stream: Iterator[EvaluationAnswers]
    then: list[CommunicationEntry]  # what is recorded behind its results


class Evaluator:
    """Has models tried on clients; trials may be under way until their results are needed.

    Meanwhile workers need not wait for what the server does, nor for one another. Rows are recorded
    as if each trial ended before anything else went on.
    """

    def __init__(
        self,
        client_pool: ClientPool,
        record: Callable[[Recorded], None],
        progress: Progress,
        save_models: SaveModels | None = None,
    ) -> None:
        self._client_pool = client_pool
        self._record = record
        self._progress = progress
        self._save_models = save_models
        self._under_way: deque[_Trial] = deque()  # oldest first
        self.last_round = -1  # in which a model of the federation has a result on some client

    @property
    def round(self) -> int | None:
        """The round of the oldest trial that is under way."""
        return self._under_way[0].request.round if self._under_way else None

    def begin(self, request: EvaluationRequest) -> None:
        """Begin a trial; of those before, one may still be under way."""
        self.finish(but=1)
        self._under_way.append(_Trial(request, self._client_pool.evaluate(request), []))

    def record(self, entry: CommunicationEntry) -> None:
        """Record a row of something else that goes on, behind those of the trials under way."""
        if self._under_way:
            self._under_way[-1].then.append(entry)
        else:
            self._record(entry)

    def finish(self, but: int = 0) -> None:
        """Take in all results of the trials under way, but for so many of the last ones."""
        while len(self._under_way) > but:
            trial = self._under_way.popleft()
            self._take_in(trial.request, trial.stream)
            for entry in trial.then:
                self._record(entry)

    def _take_in(self, request: EvaluationRequest, stream: Iterator[EvaluationAnswers]) -> None:
        models, pooled = request.models.values(), request.pooled.values()
        down = sum(num_bytes(row(weights, 0)) for weights in models) + sum(map(num_bytes, pooled))
        waiting = set(request.clients)
        failed: dict[str, list[EvaluationFailure]] = defaultdict(list)
        refused = 0
        for answers in stream:
            for evaluation in answers.rows:
                self._record(evaluation._replace(task=request.task))
                if evaluation.split == "test" and evaluation.model != LOCAL:
                    self.last_round = request.round
            if answers.models and self._save_models is not None:
                self._save_models(request, answers.models)
            for confidence in answers.confidences:
                self._record(confidence)
            for failure in answers.failed:
                failure = failure._replace(reason=one_line(failure.reason))
                failed[failure.label].append(failure)
                self._record(failure._replace(task=request.task))
            for client in answers.clients:
                waiting.discard(client)
                up, seconds = answers.bytes_up, answers.seconds
                self._enter(request.round, client, "accepted", "", down, up, seconds)
            for client, (outcome, reason) in answers.failures.items():
                waiting.discard(client)
                reason = one_line(reason)
                refused += reason == NO_METRICS
                log.warning("evaluation of client %d: %s", client, reason)
                self._enter(request.round, client, outcome, reason, down)
            self._progress.advance(len(answers.clients) + len(answers.failures))
        for client in sorted(waiting):
            self._enter(request.round, client, "lost", "no answer", down)
        if refused == len(request.clients):  # they evaluated, and tell nobody
            self.last_round = request.round
        for label, failures in failed.items():
            first, (count, asked) = failures[0], (len(failures), len(request.clients))
            log.warning(
                "round %d: %s failed on %d of %d clients; e.g. client %d: %s",
                *(request.round, label, count, asked, first.client, first.reason),
            )

    def _enter(
        self,
        round: int,
        client: int,
        outcome: str,
        reason: str,
        down: int,
        up: int = 0,
        seconds: float = 0.0,
    ) -> None:
        entry = (round, client, EVALUATE, outcome, reason, down, up, seconds, "evaluation")
        self._record(CommunicationEntry(*entry))  # type: ignore[arg-type]
