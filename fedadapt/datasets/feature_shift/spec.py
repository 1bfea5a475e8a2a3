"""Feature shifts: what happens to each client's images, one rule a class. No torch, no numpy."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from fedadapt.datasets.rules import Rule, read_rule, table
from fedadapt.parameters import param

CORRUPTIONS = (
    "spatter",
    "elastic",
    "saturation",
    "defocus-blur",
    "gaussian-noise",
    "brightness",
    "gaussian-blur",
    "jpeg",
    "contrast",
    "impulse-noise",
)
"""In the order of DUA's users: client d gets number d modulo ten."""

DOMAINS = ("plain", "inverted", "rotated90", "blurred", "noisy")
ROTATIONS = ("upright", "rotated90", "rotated180", "rotated270")


@dataclass(frozen=True)
class Shift(Rule, ABC):
    """How the images of the clients differ."""

    @property
    @abstractmethod
    def changes(self) -> tuple[str, ...]:
        """The changes that clients get in turn; an empty word leaves images as they are."""

    @property
    def strength(self) -> int:
        """The severity of a corruption, 1 to 5; 0 where the changes have none."""
        return 0

    def change(self, client: int) -> str:
        """The word for what happens to a client's images; empty where nothing does."""
        return self.changes[client % len(self.changes)]


@dataclass(frozen=True)
class NoShift(Shift):
    """All images stay as they are."""

    name = "none"
    changes = ("",)


@dataclass(frozen=True)
class Rotation(Shift):
    """Client d's images are turned by d quarters, anticlockwise."""

    name = "rotation"
    changes = ROTATIONS


@dataclass(frozen=True)
class Domains(Shift):
    """Plain, inverted, turned by a quarter, blurred or noisy images, in turn."""

    name = "domains"
    changes = DOMAINS


@dataclass(frozen=True)
class Corruptions(Shift):
    """Client d gets the d-th of the ten corruptions, in turn."""

    name = "corruptions"
    changes = CORRUPTIONS
    severity: int = param(3, "strength of the corruption", at_least=1, at_most=5)

    @property
    def strength(self) -> int:
        return self.severity


@dataclass(frozen=True)
class OneCorruption(Shift):
    """Every client gets the same corruption."""

    name = "corruption"
    kind: str = param("jpeg", "the corruption", choices=CORRUPTIONS)
    severity: int = param(3, "its strength", at_least=1, at_most=5)

    @property
    def changes(self) -> tuple[str, ...]:
        return (self.kind,)

    @property
    def strength(self) -> int:
        return self.severity


SHIFTS = table(NoShift, Rotation, Domains, Corruptions, OneCorruption)


def parse_shift(text: str) -> Shift:
    """Read ``none``, ``rotation``, ``domains``, ``corruptions:3``, ``corruption:jpeg:3``."""
    return read_rule("shift", text or "none", SHIFTS)
