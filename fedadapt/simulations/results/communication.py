"""Totals of the communication log: what messages cost, and why answers were not used."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple, get_args

from fedadapt.records import CommunicationEntry, EvaluationFailure, Outcome


class ActionTotal(NamedTuple):
    """All messages of one action in one phase; the phases are training and evaluation."""

    phase: str
    action: str
    messages: int
    outcomes: dict[str, int]  # every outcome, zeros included
    bytes_down: int
    bytes_up: int
    seconds: float  # of computing on clients, summed over them


class ReasonTotal(NamedTuple):
    """Answers that were not used, for one reason."""

    outcome: str
    action: str
    reason: str
    times: int
    clients: tuple[int, ...]  # ascending, each once
    rounds: tuple[int, ...]


def by_action(communication: Iterable[CommunicationEntry]) -> list[ActionTotal]:
    """Return a total for each phase and action: training first, then in alphabetical order."""
    totals: dict[tuple[str, str], ActionTotal] = {}
    for entry in communication:
        key = (entry.phase, entry.action)
        total = totals.get(key) or ActionTotal(
            *key, 0, dict.fromkeys(get_args(Outcome), 0), 0, 0, 0.0
        )
        total.outcomes[entry.outcome] = total.outcomes.get(entry.outcome, 0) + 1
        totals[key] = total._replace(
            messages=total.messages + 1,
            bytes_down=total.bytes_down + entry.bytes_down,
            bytes_up=total.bytes_up + entry.bytes_up,
            seconds=total.seconds + entry.seconds,
        )
    return [totals[key] for key in sorted(totals, key=lambda key: (key[0] != "training", key))]


def by_reason(communication: Iterable[CommunicationEntry]) -> list[ReasonTotal]:
    """Return the reasons why answers were not used, the most frequent one first."""
    times: Counter[tuple[str, str, str]] = Counter()
    clients: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    rounds: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for entry in communication:
        if entry.outcome != "accepted":
            key = (entry.outcome, entry.action, entry.reason)
            times[key] += 1
            clients[key].add(entry.client)
            rounds[key].add(entry.round)
    totals = [
        ReasonTotal(*key, number, tuple(sorted(clients[key])), tuple(sorted(rounds[key])))
        for key, number in times.items()
    ]
    return sorted(totals, key=lambda total: (-total.times, total))


class FailureTotal(NamedTuple):
    """The clients on which a model with its adaptation failed for one reason."""

    label: str
    reason: str  # without the incident
    times: int
    clients: tuple[int, ...]  # ascending, each once
    rounds: tuple[int, ...]


def by_failure(failures: Iterable[EvaluationFailure]) -> list[FailureTotal]:
    """Return what failed on clients that answered, the most frequent failure first."""
    grouped: dict[tuple[str, str], list[EvaluationFailure]] = defaultdict(list)
    for failure in failures:
        grouped[failure.label, failure.reason.partition(" incident=")[0]].append(failure)
    totals = [
        FailureTotal(
            *key,
            len(alike),
            tuple(sorted({failure.client for failure in alike})),
            tuple(sorted({failure.round for failure in alike})),
        )
        for key, alike in grouped.items()
    ]
    return sorted(totals, key=lambda total: (-total.times, total))
