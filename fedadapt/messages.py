"""What travels between server and clients, for a whole cohort at once, free of any framework."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from fedadapt.records import Outcome
from fedadapt.weights import Weights, num_bytes

Config = Mapping[str, bool | int | float | str | list[int] | list[float] | list[str]]


class Sent(NamedTuple):
    """Server -> clients: row d of each tensor is for the d-th client addressed."""

    clients: tuple[int, ...]  # ascending
    weights: Weights  # each [D, ...]; a model sent to all is an expanded view
    config: Config  # the same for all


@dataclass(frozen=True, eq=False)
class Update:
    """Clients -> server, and what stays behind; every tensor is stacked, [D, ...]."""

    weights: Weights  # travels
    num_examples: Tensor  # travels: [D], float64
    metrics: dict[str, Tensor] = field(default_factory=dict)  # travels: "loss", ... each [D]
    report: Weights = field(default_factory=dict)  # travels: sparsity, importance, moments, masks
    states: dict[str, Weights] = field(default_factory=dict)  # stays on the clients

    def keeping(self, **parts: Weights) -> "Update":
        """Return a copy after which clients also keep ``parts``, each [D, ...], in their state."""
        return replace(self, states=self.states | parts)


class Failure(NamedTuple):
    """A client without a usable answer."""

    outcome: Outcome
    reason: str  # a type and an incident id, or what was wrong with the answer; never data


@dataclass(frozen=True, eq=False)
class Answers:
    """Some of the addressed clients' answers: ``update`` has a row for each of ``clients``."""

    clients: tuple[int, ...]
    update: Update | None  # None when nobody answered
    failures: dict[int, Failure] = field(default_factory=dict)
    bytes_up: dict[int, int] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)


def bytes_up(update: Update, clients: tuple[int, ...]) -> dict[int, int]:
    """Payload of each client's answer: its row of every array that travels, 8 bytes a number."""
    arrays = sum(num_bytes(w) for w in (update.weights, update.report)) // max(len(clients), 1)
    return dict.fromkeys(clients, arrays + 8 * (1 + len(update.metrics)))
