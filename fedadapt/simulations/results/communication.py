"""The ledger, added up: what each message cost, and why answers were not used."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple, get_args

from fedadapt.records import CommunicationEntry, Outcome


class ActionTotal(NamedTuple):
    """All messages of one action."""

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
    """Totals for each action, by name."""
    totals: dict[str, ActionTotal] = {}
    for entry in communication:
        total = totals.get(entry.action) or ActionTotal(
            entry.action, 0, dict.fromkeys(get_args(Outcome), 0), 0, 0, 0.0
        )
        total.outcomes[entry.outcome] = total.outcomes.get(entry.outcome, 0) + 1
        totals[entry.action] = total._replace(
            messages=total.messages + 1,
            bytes_down=total.bytes_down + entry.bytes_down,
            bytes_up=total.bytes_up + entry.bytes_up,
            seconds=total.seconds + entry.seconds,
        )
    return [totals[action] for action in sorted(totals)]


def by_reason(communication: Iterable[CommunicationEntry]) -> list[ReasonTotal]:
    """Why answers were not used, the most frequent reason first."""
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
