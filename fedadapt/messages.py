"""What travels between server and devices, for a whole cohort at once, free of any framework."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from fedadapt.records import Outcome
from fedadapt.weights import Weights, num_bytes

Config = Mapping[str, bool | int | float | str | list[int] | list[float] | list[str]]


class Sent(NamedTuple):
    """Server -> devices: row d of each tensor is for the d-th device addressed."""

    devices: tuple[int, ...]  # ascending
    weights: Weights  # each [D, ...]; a model sent to all is an expanded view
    config: Config  # the same for all


@dataclass(frozen=True, eq=False)
class Update:
    """Devices -> server, and what stays behind; every tensor is stacked, [D, ...]."""

    weights: Weights  # travels
    num_examples: Tensor  # travels: [D], float64
    metrics: dict[str, Tensor] = field(default_factory=dict)  # travels: "loss", ... each [D]
    report: Weights = field(default_factory=dict)  # travels: sparsity, importance, moments, masks
    kept: dict[str, Weights] = field(default_factory=dict)  # stays on the devices


class Failure(NamedTuple):
    """A device without a usable answer."""

    outcome: Outcome
    reason: str  # a type and an incident id, or what was wrong with the answer; never data


@dataclass(frozen=True, eq=False)
class Answers:
    """Some of the addressed devices' answers: ``update`` has a row for each of ``devices``."""

    devices: tuple[int, ...]
    update: Update | None  # None when nobody answered
    failures: dict[int, Failure] = field(default_factory=dict)
    bytes_up: dict[int, int] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)


def bytes_up(update: Update, devices: tuple[int, ...]) -> dict[int, int]:
    """Payload of each device's answer: its row of every array that travels, 8 bytes a number."""
    arrays = sum(num_bytes(w) for w in (update.weights, update.report)) // max(len(devices), 1)
    return dict.fromkeys(devices, arrays + 8 * (1 + len(update.metrics)))
