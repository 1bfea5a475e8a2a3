"""Rounds of a strategy whose every exchange is recorded, for the rules to look at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fedadapt.messages import Answers, Sent, Update
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.base import Metadata, Strategy
from fedadapt.testing.assertions import copied, require
from fedadapt.weights import Weights, row, rows

States = Mapping[int, Mapping[str, Weights]]


class Clients(Protocol):
    """The part of ``server.client_pool.ClientPool`` that a trial needs."""

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]: ...

    def states(self) -> States: ...

    def restore(self, states: States) -> None: ...


class DirectClients:
    """Computes clients in this process, cohort by cohort.

    Unlike an engine it lets an error through as it is, for the traceback to show where it was.
    """

    def __init__(self, worker: Worker, cohort_size: int = 1) -> None:
        self._worker = worker
        self._cohort_size = cohort_size
        self._states: dict[int, Mapping[str, Weights]] = {}

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        for first in range(0, len(sent.clients), self._cohort_size):
            last = min(first + self._cohort_size, len(sent.clients))
            clients = sent.clients[first:last]
            cohort_sent = Sent(clients, rows(sent.weights, first, last), sent.config)
            states = [self._states.get(client, {}) for client in clients]
            update = self._worker.answer(action, round, cohort_sent, states)
            for d, client in enumerate(clients):
                new = {part: copied(row(w, d)) for part, w in update.states.items()}
                self._states[client] = {**self._states.get(client, {}), **new}
            yield Answers(clients, update)

    def states(self) -> States:
        return dict(self._states)

    def restore(self, states: States) -> None:
        self._states = {client: dict(parts) for client, parts in states.items()}


@dataclass(frozen=True, eq=False)
class Exchanged:
    """One exchange: what went into it, what came of it, and copies made before it was used."""

    round: int
    action: str
    state: Any  # of the server, before the exchange
    packed: dict[str, Tensor]  # copy of its tensors
    metadata: Metadata
    sent: Sent
    sent_copy: Weights
    expected: Weights
    states: States  # of the clients, before the exchange
    states_copy: dict[int, dict[str, Weights]]
    answers: list[Answers]
    answers_copy: dict[int, Weights]

    @property
    def by_client(self) -> dict[int, Weights]:
        """Everything that each client answered or keeps, by client and dotted name."""
        return by_client(self.answers)


@dataclass(eq=False)
class Trial:
    """A strategy and its clients, round after round."""

    strategy: Strategy[Any]
    clients: Clients
    seen: Sequence[int]
    state: Any
    folder: Path  # of the run: a strategy may keep there what is too large for memory
    exchanges: list[Exchanged] = field(default_factory=list)

    def run(self, rounds: int, first: int = 1) -> "Trial":
        """Rounds ``first`` to ``rounds`` with all clients that train."""
        for number in range(first, rounds + 1):
            self.round(number)
        return self

    def round(self, number: int, sampled: Sequence[int] | None = None) -> None:
        """One round, with ``sampled`` or all clients that train."""
        strategy, sampled = self.strategy, tuple(self.seen if sampled is None else sampled)
        for action in strategy.actions(self.state, number):
            sent = strategy.send(self.state, action, number, sampled)
            packed, metadata = all_packed(strategy, self.state)
            expected = strategy.expected(action, row(sent.weights, 0))
            sent_copy = copied(sent.weights)
            states = self.clients.states()
            states_copy = {
                client: {part: copied(w) for part, w in parts.items()}
                for client, parts in states.items()
            }
            answers = list(self.clients.ask(action, number, sent, expected))
            failed = [f"client {c}: {f.reason}" for a in answers for c, f in a.failures.items()]
            require(not failed, f"round {number}, {action}: {'; '.join(failed)}")
            self.exchanges.append(
                Exchanged(
                    round=number,
                    action=action,
                    state=self.state,
                    packed=packed,
                    metadata=metadata,
                    sent=sent,
                    sent_copy=sent_copy,
                    expected=expected,
                    states=states,
                    states_copy=states_copy,
                    answers=answers,
                    answers_copy={c: copied(w) for c, w in by_client(answers).items()},
                )
            )
            self.state = strategy.merge(self.state, action, number, iter(answers))
        self.state = strategy.end(self.state, number)

    def packed(self) -> dict[str, Tensor]:
        """A copy of the tensors of the server's state."""
        return all_packed(self.strategy, self.state)[0]

    def metadata(self) -> Metadata:
        """The rest of the server's state."""
        return self.strategy.pack(self.state)[1]

    def models(self, clients: Sequence[int]) -> dict[str, Weights]:
        """A copy of the models that the server has for ``clients``, by task and name: [D, ...]."""
        return {
            f"task {task}, {name}": copied(weights)
            for task, models in self.strategy.models_by_task(self.state, clients)
            for name, weights in models.items()
        }


def all_packed(strategy: Strategy[Any], state: Any) -> tuple[dict[str, Tensor], Metadata]:
    """Copies of all tensors that a checkpoint holds of a strategy's state, and the metadata."""
    tensors, metadata = strategy.pack(state)
    for client, parts in strategy.pack_clients(state).items():
        for part, weights in parts.items():
            tensors = tensors | {f"client {client}, {part}.{n}": t for n, t in weights.items()}
    return copied(tensors), metadata


def by_client(answers: Sequence[Answers]) -> dict[int, Weights]:
    """Everything of each client's answer, by client and dotted name."""
    return {
        client: flat(answer.update, d)
        for answer in answers
        if answer.update is not None
        for d, client in enumerate(answer.clients)
    }


def flat(update: Update, index: int) -> Weights:
    """Every tensor of one client's answer, by dotted name."""
    parts = {"weights": update.weights, "metrics": update.metrics, "report": update.report}
    parts |= {f"state {part}": weights for part, weights in update.states.items()}
    tensors = {
        f"{part}.{n}": t[index] for part, weights in parts.items() for n, t in weights.items()
    }
    return tensors | {"num-examples": update.num_examples[index]}
