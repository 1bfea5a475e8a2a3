"""The words that describe skew (``dirichlet:0.3``, ``corruptions:3``, ...), read and checked.

No torch, no numpy: the command line refuses a bad word at once. ``docs/data.md`` has the grammar.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from fedadapt.errors import InputError, unknown

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


class Rule(NamedTuple):
    """A word and the number after its colon (0 where it takes none)."""

    name: str
    value: float = 0.0


class Partition(NamedTuple):
    """How labels are spread: inside every domain when ``by_domain``, else over all images."""

    by_domain: bool
    rule: Rule


class Shift(NamedTuple):
    """How the clients' images differ; ``corruption`` is empty where each client has its own."""

    name: str
    corruption: str = ""
    severity: int = 0


@dataclass(frozen=True)
class _Argument:
    """The number a rule takes: what to call it, and what it may be."""

    label: str
    example: str
    whole: bool = False
    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf

    @property
    def allowed(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        limits = [f"{sign} {x:g}" for sign, x in self._limits if math.isfinite(x)]
        return " ".join([kind, " and ".join(limits)]).strip()

    @property
    def _limits(self) -> tuple[tuple[str, float], ...]:
        return ((">=", self.at_least), (">", self.above), ("<=", self.at_most))

    def accepts(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and self.at_least <= value <= self.at_most
            and value > self.above
            and not (self.whole and value != int(value))
        )


_COUNT = _Argument("K", "2", whole=True, at_least=1)
_PARTITIONS: dict[str, _Argument | None] = {
    "iid": None,
    "dirichlet": _Argument("ALPHA", "0.3", above=0),
    "pathological": _COUNT,
    "shards": _COUNT,
    "class-types": _COUNT,
}
_QUANTITIES: dict[str, _Argument | None] = {
    "even": None,
    "linear": None,
    "square": None,
    "exponential": None,
    "lognormal": _Argument("SIGMA", "1", at_least=0, at_most=10),
}
_IMBALANCES: dict[str, _Argument | None] = {
    "none": None,
    "long-tail": _Argument("IF", "0.1", above=0, at_most=1),
}
_SHIFTS = ("none", "rotation", "domains", "corruptions", "corruption")


def parse_partition(text: str) -> Partition:
    """``iid``, ``dirichlet:0.3``, ``by-domain``, ``by-domain+dirichlet:0.3``, ..."""
    if text == "by-domain":
        return Partition(True, Rule("iid"))
    inner = text.removeprefix("by-domain+")
    return Partition(inner != text, _rule("partition", inner, _PARTITIONS, ("by-domain",)))


def parse_quantity(text: str) -> Rule:
    """``even`` (also empty), ``linear``, ``square``, ``exponential``, ``lognormal:1``."""
    return _rule("quantity", text or "even", _QUANTITIES)


def parse_imbalance(text: str) -> Rule:
    """``none`` (also empty) or ``long-tail:0.1``."""
    return _rule("imbalance", text or "none", _IMBALANCES)


def parse_shift(text: str) -> Shift:
    """``none``, ``rotation``, ``domains``, ``corruptions:3``, ``corruption:jpeg:3``."""
    name, *rest = (text or "none").split(":")
    if name not in _SHIFTS:
        raise unknown("shift", name, _SHIFTS)
    if name not in ("corruptions", "corruption"):
        if rest:
            raise InputError(f"shift: {text!r}: {name} takes no number; write {name}")
        return Shift(name)
    wanted = 1 if name == "corruptions" else 2
    if len(rest) != wanted or rest[-1] not in ("1", "2", "3", "4", "5"):
        form = "corruptions:SEVERITY" if wanted == 1 else "corruption:NAME:SEVERITY"
        raise InputError(f"shift: {text!r} is not of the form {form}; SEVERITY is 1 to 5")
    if wanted == 1:
        return Shift(name, severity=int(rest[0]))
    if rest[0] not in CORRUPTIONS:
        raise unknown("shift", rest[0], CORRUPTIONS)
    return Shift(name, rest[0], int(rest[1]))


def _rule(
    key: str, text: str, table: dict[str, _Argument | None], more: tuple[str, ...] = ()
) -> Rule:
    name, colon, number = text.partition(":")
    if name not in table:
        raise unknown(key, name, (*table, *more))
    argument = table[name]
    if argument is None:
        if colon:
            raise InputError(f"{key}: {text!r}: {name} takes no number; write {name}")
        return Rule(name)
    form = f"write {name}:{argument.label}, e.g. {name}:{argument.example}"
    if not number:
        raise InputError(f"{key}: {text!r} lacks its number; {form}")
    try:
        value = float(number)
    except ValueError:
        raise InputError(f"{key}: {text!r}: {number!r} is not a number; {form}") from None
    if not argument.accepts(value):
        raise InputError(f"{key}: {text!r}: {number} must be {argument.allowed}")
    return Rule(name, value)
