"""One question to some devices: every answer is checked, every device accounted for."""

import math
from collections.abc import Callable, Iterator, Mapping

from fedadapt.messages import Answers, Failure, Sent, Update
from fedadapt.records import LedgerEntry
from fedadapt.server.checks import Expected, accept, faults
from fedadapt.server.client_pool import Fleet
from fedadapt.weights import Weights, num_bytes


class RoundFailedError(Exception):
    """Too few usable answers: the round did not happen."""

    def __init__(self, action: str, accepted: int, asked: int, needed: int, why: list[str]) -> None:
        self.reasons = why
        reasons = f"; e.g. {why[0]}" if why else ""
        super().__init__(
            f"{action}: {accepted} of {asked} devices gave a usable answer, "
            f"{needed} needed{reasons}"
        )


class Exchange:
    """The server's side of a round's questions.

    Every device asked ends as exactly one of accepted, rejected, error, late, lost; each is a line
    in the ledger. Below quorum the stream of answers ends in ``RoundFailedError``, so whoever folds
    it never gets to return a new state.
    """

    def __init__(
        self,
        fleet: Fleet,
        round: int,
        *,
        min_replies: float,
        max_update_norm: float,
        record: Callable[[LedgerEntry], None],
        progress: Callable[[int], None],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """A round's exchange.

        Args:
            record: Takes the lines of the ledger.
            progress: Told how many devices more are done with.
            meanwhile: Called while devices work, if the fleet has them begin at once, before their
                first answer is taken in.

        """
        self._fleet = fleet
        self.round = round
        self._min_replies = min_replies
        self._max_update_norm = max_update_norm
        self._record = record
        self._progress = progress
        self._meanwhile = meanwhile
        self._loss_sum = 0.0
        self._examples = 0.0
        self._trained = 0

    def ask(
        self,
        action: str,
        sent: Sent,
        expected: Weights,
        more_faults: Callable[[str, Update], Mapping[int, str]] = lambda action, update: {},
    ) -> Iterator[Answers]:
        """Ask, and yield the usable answers in device order.

        Args:
            more_faults: What the method refuses beyond what is refused of all; ``Strategy.faults``.

        """
        shape = Expected.of(expected)
        limit = self._max_update_norm if action == "train" else 0.0  # other answers are no updates
        down = num_bytes({n: t[0] for n, t in sent.weights.items()})
        position = {device: row for row, device in enumerate(sent.devices)}
        waiting = set(sent.devices)
        accepted = 0
        why: list[str] = []
        stream = self._fleet.ask(action, self.round, sent, expected)
        self._meanwhile()
        for answers in stream:
            at = [position[d] for d in answers.devices]
            base = {n: t[at] for n, t in sent.weights.items()} if limit else None
            found = faults(answers, shape, base, max_norm=limit)
            usable = accept(answers, found)
            if usable.update is not None:
                rows = more_faults(action, usable.update)
                usable = accept(usable, {usable.devices[d]: why for d, why in rows.items()})
            for device in usable.devices:
                waiting.discard(device)
                self._enter(action, device, Failure("accepted", ""), down, answers)
            for device, failure in usable.failures.items():
                waiting.discard(device)
                why.append(f"device {device}: {failure.reason}")
                self._enter(action, device, failure, down, answers)
            accepted += len(usable.devices)
            if action == "train":
                self._count_loss(usable)
            self._progress(len(usable.devices) + len(usable.failures))
            if usable.update is not None:
                yield usable
        for device in sorted(waiting):
            self._enter(action, device, Failure("lost", "no answer"), down, None)
        # 0.55 * 100 is 55.00000000000001: rounded, or 55 answers of 100 were too few.
        needed = max(1, math.ceil(round(self._min_replies * len(sent.devices), 6)))
        if accepted < needed:
            raise RoundFailedError(action, accepted, len(sent.devices), needed, why)

    @property
    def loss(self) -> float:
        """Mean training loss over examples; NaN where no answer carried one."""
        return self._loss_sum / self._examples if self._examples else math.nan

    @property
    def num_trained(self) -> int:
        return self._trained

    def _count_loss(self, usable: Answers) -> None:
        if usable.update is None or "loss" not in usable.update.metrics:
            return
        examples = usable.update.num_examples.double()
        self._loss_sum += float((usable.update.metrics["loss"].double() * examples).sum())
        self._examples += float(examples.sum())
        self._trained += len(usable.devices)

    def _enter(
        self, action: str, device: int, failure: Failure, down: int, answers: Answers | None
    ) -> None:
        self._record(
            LedgerEntry(
                round=self.round,
                device=device,
                action=action,
                outcome=failure.outcome,
                reason=failure.reason,
                bytes_down=down,
                bytes_up=answers.bytes_up.get(device, 0) if answers else 0,
                seconds=answers.seconds.get(device, 0.0) if answers else 0.0,
            )
        )
