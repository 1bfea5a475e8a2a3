"""Clients whose answers are told line by line: what ``flwr log`` and ``deploy run`` show."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean

from fedadapt.messages import Answers, Failure, Sent
from fedadapt.server.client_pool import ClientPool, EvaluationAnswers, EvaluationRequest
from fedadapt.weights import Weights

Say = Callable[[str], None]


class TellingClients:
    """Passes everything on to ``clients``, and says what came of it.

    Lines hold numbers of clients, outcomes, losses and mean accuracies, and nothing that a client
    has worded itself except its reason for a failure, which the pool has checked.
    """

    def __init__(self, clients: ClientPool, say: Say) -> None:
        self._clients = clients
        self._say = say
        self.keeps_models = clients.keeps_models
        self.evaluates_in_background = clients.evaluates_in_background

    @property
    def withheld(self) -> Mapping[str, int]:
        return self._clients.withheld

    def ready(self) -> Sequence[int]:
        numbers = self._clients.ready()
        self._say(f"{len(numbers)} clients are there: {', '.join(map(str, numbers))}")
        return numbers

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        asked = f"round {round}, {action}"
        self._say(f"{asked}: asking {len(sent.clients)} clients")
        # Asked now, not when the first answer is wanted: a trial may ride on it.
        stream = self._clients.ask(action, round, sent, expected)
        return self._told_of_answers(asked, len(sent.clients), stream)

    def _told_of_answers(
        self, asked: str, count: int, stream: Iterator[Answers]
    ) -> Iterator[Answers]:
        answered = 0
        for answers in stream:
            answered += len(answers.clients)
            self._tell_failures(asked, answers.failures)
            losses = None if answers.update is None else answers.update.metrics.get("loss")
            for row, client in enumerate(answers.clients):
                loss = "" if losses is None else f", loss {losses[row]:.4f}"
                self._say(f"{asked}: client {client} answered{loss}")
            yield answers
        self._say(f"{asked}: {answered} of {count} answered")

    def evaluate(self, request: EvaluationRequest) -> Iterator[EvaluationAnswers]:
        asked = f"round {request.round}, evaluate"
        self._say(f"{asked}: asking {len(request.clients)} clients")
        return self._told_of_results(asked, len(request.clients), self._clients.evaluate(request))

    def _told_of_results(
        self, asked: str, count: int, stream: Iterator[EvaluationAnswers]
    ) -> Iterator[EvaluationAnswers]:
        answered = 0
        accuracies: dict[str, list[float]] = {}
        for answers in stream:
            answered += len(answers.clients)
            self._tell_failures(asked, answers.failures)
            for row in answers.rows:
                if row.split == "test" and not row.epoch:
                    accuracies.setdefault(row.label, []).append(row.accuracy)
            yield answers
        means = ", ".join(f"{label} {100 * fmean(of):.1f} %" for label, of in accuracies.items())
        self._say(f"{asked}: {answered} of {count} answered; {means or 'no results'}")

    def states(self) -> Mapping[int, Mapping[str, Weights]]:
        return self._clients.states()

    def restore(self, states: Mapping[int, Mapping[str, Weights]]) -> None:
        self._clients.restore(states)

    def _tell_failures(self, asked: str, failures: Mapping[int, Failure]) -> None:
        for client, failure in failures.items():
            self._say(f"{asked}: client {client}: {failure.outcome}, {failure.reason}")
