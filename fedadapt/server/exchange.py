"""One exchange: a message to clients, their checked answers, and a log entry for each client."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median_low

from fedadapt.errors import one_line
from fedadapt.messages import Answers, Failure, Sent, Update
from fedadapt.records import CommunicationEntry, Phase
from fedadapt.server.checks import Expected, accept, update_norms, validation_errors
from fedadapt.server.client_pool import ClientPool
from fedadapt.weights import Weights, num_bytes

EVALUATE = "evaluate"
LEAST_COMPARED = 3  # updates of which a median says what is usual


class RoundFailedError(Exception):
    """There were too few usable answers, so the round has no effect."""

    def __init__(self, action: str, accepted: int, asked: int, needed: int, why: list[str]) -> None:
        self.reasons = why
        self.accepted = accepted
        reasons = f"; e.g. {why[0]}" if why else ""
        super().__init__(
            f"{action}: {accepted} of {asked} clients gave a usable answer, "
            f"{needed} needed{reasons}"
        )


class Exchange:
    """The server's side of the exchanges of a round.

    Every client that was asked gets one of the outcomes accepted, rejected, error, late and lost,
    and an entry in the communication log. Below quorum the stream of answers ends with
    ``RoundFailedError``, so a strategy that consumes it cannot return a new state.
    """

    def __init__(
        self,
        client_pool: ClientPool,
        round: int,
        *,
        min_replies: float,
        max_update_norm: float,
        max_update_factor: float = 0.0,
        record: Callable[[CommunicationEntry], None],
        progress: Callable[[int], None],
        meanwhile: Callable[[], None] = lambda: None,
        phase: Phase = "training",
    ) -> None:
        """Prepare the exchanges of one round.

        Args:
            max_update_norm: The longest update allowed; 0: no limit.
            max_update_factor: So many times the median length of the round's updates is the
                longest allowed; 0: no limit. All answers are then held until the last has come.
            record: Takes the entries of the communication log.
            progress: Called with the number of further clients that have finished.
            meanwhile: Called before the first answer is taken in; clients work at the same time,
                if the client pool starts them at once.
            phase: What the messages are for. Those named ``evaluate`` are evaluation in any case:
                a stock Flower strategy sends them in the middle of its rounds.

        """
        self._client_pool = client_pool
        self.round = round
        self._min_replies = min_replies
        self._max_update_norm = max_update_norm
        self._max_update_factor = max_update_factor
        self._record = record
        self._progress = progress
        self._meanwhile = meanwhile
        self._phase: Phase = phase
        self._loss_sum = 0.0
        self._examples = 0.0
        self._trained = 0

    def ask(
        self,
        action: str,
        sent: Sent,
        expected: Weights,
        more_validation_errors: Callable[
            [str, Update], Mapping[int, str]
        ] = lambda action, update: {},
    ) -> Iterator[Answers]:
        """Ask the clients, and yield the usable answers in client order.

        Where there is nobody to ask, there is no quorum to be lost.

        Args:
            more_validation_errors: Names the faults that the strategy itself finds; see
                ``Strategy.validation_errors``.

        """
        if not sent.clients:
            return
        shape = Expected.of(expected)
        is_update = action == "train"  # other answers are no updates
        limit = self._max_update_norm if is_update else 0.0
        down = num_bytes({n: t[0] for n, t in sent.weights.items()})
        position = {client: row for row, client in enumerate(sent.clients)}
        waiting = set(sent.clients)
        accepted = 0
        why: list[str] = []
        stream = self._client_pool.ask(action, self.round, sent, expected)
        self._meanwhile()

        def received(answers: Answers) -> Weights:
            at = [position[d] for d in answers.clients]
            return {n: t[at] for n, t in sent.weights.items()}

        if is_update and self._max_update_factor:
            stream, usual = iter(held := list(stream)), _median_norm(held, shape, received)
            bound = self._max_update_factor * usual
            limit = min(limit or bound, bound or limit)
        for answers in stream:
            base = received(answers) if limit else None
            errors = validation_errors(answers, shape, base, max_norm=limit)
            usable = accept(answers, errors)
            if usable.update is not None:
                rows = more_validation_errors(action, usable.update)
                usable = accept(usable, {usable.clients[d]: why for d, why in rows.items()})
            for client in usable.clients:
                waiting.discard(client)
                self._enter(action, client, Failure("accepted", ""), down, answers)
            for client, failure in usable.failures.items():
                failure = Failure(failure.outcome, one_line(failure.reason))
                waiting.discard(client)
                why.append(f"client {client}: {failure.reason}")
                self._enter(action, client, failure, down, answers)
            accepted += len(usable.clients)
            if action == "train":
                self._count_loss(usable)
            self._progress(len(usable.clients) + len(usable.failures))
            if usable.update is not None:
                yield usable
        for client in sorted(waiting):
            self._enter(action, client, Failure("lost", "no answer"), down, None)
        # Rounded, because 0.55 * 100 is 55.00000000000001, and 55 answers would not suffice.
        needed = max(1, math.ceil(round(self._min_replies * len(sent.clients), 6)))
        if accepted < needed:
            raise RoundFailedError(action, accepted, len(sent.clients), needed, why)

    @property
    def loss(self) -> float:
        """Mean training loss over examples; NaN if no answer had one."""
        return self._loss_sum / self._examples if self._examples else math.nan

    @property
    def num_trained(self) -> int:
        return self._trained

    def _count_loss(self, usable: Answers) -> None:
        if usable.update is None or "loss" not in usable.update.metrics:
            return
        examples, losses = usable.update.num_examples, usable.update.metrics["loss"].double()
        # One after the other: the sum does not depend on how clients are divided into cohorts.
        for count, loss in zip(examples.tolist(), losses.tolist(), strict=True):
            self._loss_sum += loss * count
            self._examples += count
        self._trained += len(usable.clients)

    def _enter(
        self, action: str, client: int, failure: Failure, down: int, answers: Answers | None
    ) -> None:
        self._record(
            CommunicationEntry(
                round=self.round,
                client=client,
                action=action,
                outcome=failure.outcome,
                reason=failure.reason,
                bytes_down=down,
                bytes_up=answers.bytes_up.get(client, 0) if answers else 0,
                seconds=answers.seconds.get(client, 0.0) if answers else 0.0,
                phase="evaluation" if action == EVALUATE else self._phase,
            )
        )


def _median_norm(
    stream: Sequence[Answers], expected: Expected, received: Callable[[Answers], Weights]
) -> float:
    """Return the median length of the usable updates; 0 of fewer than three, which tell nothing.

    Of an even number it is the lower of the two in the middle: half of the clients cannot raise it.

    Args:
        received: The weights that the clients of an answer started from, a row each.

    """
    norms: list[float] = []
    for answers in stream:
        usable = accept(answers, validation_errors(answers, expected, None))
        if usable.update is not None:
            weights, count = usable.update.weights, len(usable.clients)
            norms += update_norms(weights, received(usable), count).tolist()
    return median_low(norms) if len(norms) >= LEAST_COMPARED else 0.0
