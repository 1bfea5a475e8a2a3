"""The settings that a study tries: ``"lr=log:1e-3..1e-1; ditto.lam=0.01,0.1,1"``. No torch."""

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from fedadapt.config import RunConfig, adaptations_of
from fedadapt.errors import InputError, nearest
from fedadapt.parameters import Scalar, parameters

EXAMPLE = '"lr=log:1e-3..1e-1; ditto.lam=0.01,0.1,1"'
Point = Mapping[str, Scalar]  # the name of an axis -> its value


@dataclass(frozen=True)
class Choices:
    """Values that are listed."""

    values: tuple[Scalar, ...]

    @property
    def ends(self) -> tuple[Scalar, ...]:
        """Every value: each has to be allowed."""
        return self.values

    def at(self, place: float) -> Scalar:
        """Return the value at a place in [0, 1)."""
        return self.values[int(place * len(self.values))]


@dataclass(frozen=True)
class Range:
    """All numbers between two, both included."""

    low: float
    high: float
    is_log: bool  # uniform in the logarithm
    is_whole: bool  # whole numbers only

    @property
    def ends(self) -> tuple[Scalar, ...]:
        """The two ends; what lies between them is allowed where they are."""
        return self.low, self.high

    def at(self, place: float) -> Scalar:
        """Return the value at a place in [0, 1)."""
        if self.is_log:
            value = math.exp(math.log(self.low) + place * math.log(self.high / self.low))
        else:
            value = self.low + place * (self.high - self.low)
        return round(value) if self.is_whole else short(min(value, self.high))


def short(value: float) -> float:
    """Return a number of four digits, which is exact enough for a setting and can be written."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


class Axis(NamedTuple):
    """One of the things that are tried."""

    owner: str  # the strategy or the adaptation whose argument it is; "": it is a setting of runs
    key: str  # in kebab-case, as it is written
    domain: Choices | Range

    @property
    def name(self) -> str:
        """As it is written: ``lr``, ``ditto.lam``."""
        return f"{self.owner}.{self.key}" if self.owner else self.key


def parse_space(text: str, where: str) -> tuple[Axis, ...]:
    """Read axes that are separated by semicolons.

    Args:
        text: ``key=values`` each. A key is a setting of runs, or an argument of a strategy or an
            adaptation, which is named before a dot. Values are listed, with commas between them,
            or a range: ``low..high``, or ``log:low..high`` for one that is even in the logarithm.
        where: The option that the text comes from.

    Raises:
        InputError: An axis is malformed, or is there twice.

    """
    axes: dict[str, Axis] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, values = (word.strip() for word in part.partition("="))
        if not (name and equals and values):
            raise InputError(f"{where}: {part!r}; write name=values, as in {EXAMPLE}")
        owner, _, key = name.rpartition(".")
        axis = Axis(owner, key.replace("_", "-"), _domain(values, f"{where}: {name}"))
        known = RunConfig.keys()
        if not owner and axis.key not in known:
            raise InputError(
                f"{where}: {name} is no setting of a run{nearest(axis.key, known)}; an argument of "
                "a strategy has its name before it, as in ditto.lam"
            )
        if not owner and axis.key in ("seed", "strategy", "strategy-args", "out"):
            raise InputError(f"{where}: {name} has an option of its own, or its own axes")
        if axis.name in axes:
            raise InputError(f"{where}: {name} is given twice")
        axes[axis.name] = axis
    return tuple(axes.values())


def _domain(text: str, where: str) -> Choices | Range:
    span = text.removeprefix("log:")
    if ".." in span:
        low, _, high = span.partition("..")
        ends = (_number(low, where), _number(high, where))
        if not ends[0] < ends[1]:
            raise InputError(f"{where}: {text!r}; the first number must be below the second")
        if text != span and ends[0] <= 0:
            raise InputError(f"{where}: {text!r}; a logarithm needs numbers above 0")
        is_whole = all(isinstance(end, int) for end in ends)
        return Range(*ends, is_log=text != span, is_whole=is_whole)
    if text != span:
        raise InputError(f"{where}: {text!r}; log: is for a range, as in log:0.001..0.1")
    values = tuple(_scalar(word.strip()) for word in text.split(","))
    if len(set(values)) < len(values) or "" in values:
        raise InputError(f"{where}: {text!r}; give different values, separated by commas")
    return Choices(values)


def _number(text: str, where: str) -> float:
    value = _scalar(text.strip())
    if isinstance(value, bool | str):
        raise InputError(f"{where}: {text.strip()!r} is not a number")
    return value


def _scalar(text: str) -> Scalar:
    """A number, true or false as TOML has them; anything else is a word."""
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float | str) else text


def axes_of(axes: Sequence[Axis], strategy: str, config: RunConfig) -> tuple[Axis, ...]:
    """Return the axes that a strategy has: settings, its own arguments, and adaptations'."""
    adapted = {name for chain in adaptations_of(config.adapt) for name in chain.split("+")}
    return tuple(axis for axis in axes if axis.owner in {"", strategy} | adapted)


def check_owners(axes: Sequence[Axis], strategies: Sequence[str], config: RunConfig) -> None:
    """Refuse an axis that no run of a study has.

    Raises:
        InputError: Its owner is neither one of the strategies nor an adaptation of the runs.

    """
    adapted = {name for chain in adaptations_of(config.adapt) for name in chain.split("+")}
    for axis in axes:
        if axis.owner and axis.owner not in {*strategies} | adapted:
            raise InputError(
                f"{axis.name}: {axis.owner} is neither one of the strategies "
                f"({', '.join(strategies)}) nor one of the adaptations ({config.adapt})"
            )


def applied(config: RunConfig, point: Point) -> RunConfig:
    """Return the settings with the values of a point.

    Raises:
        InputError: A value is not allowed.

    """
    changed: dict[str, Scalar] = {}
    strategy_args, adapt_args = [config.strategy_args], [config.adapt_args]
    for name, value in point.items():
        owner, _, key = name.rpartition(".")
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        if not owner:
            changed[name] = _as_setting(name, value)
        elif owner == config.strategy:
            strategy_args.append(f"{key}={shown}")
        else:
            adapt_args.append(f"{owner}.{key}={shown}")
    return RunConfig.from_mapping(
        config.to_mapping()
        | changed
        | {"strategy-args": " ".join(filter(None, strategy_args))}
        | {"adapt-args": " ".join(filter(None, adapt_args))},
        "settings",
    )


def _as_setting(key: str, value: Scalar) -> Scalar:
    """A word that looks like a number is still a word where a word is meant."""
    described = parameters(RunConfig)[key.replace("-", "_")]
    return str(value) if described.scalar is str else value


def grid(axes: Sequence[Axis], where: str) -> Iterator[Point]:
    """Yield every combination of listed values, the last axis fastest; of no axes, one of none.

    Raises:
        InputError: An axis is a range.

    """
    lists = []
    for axis in axes:
        if isinstance(axis.domain, Range):
            raise InputError(f"{where}: {axis.name} is a range; list its values, as in lr=0.01,0.1")
        lists.append([(axis.name, value) for value in axis.domain.values])
    yield from map(dict, product(*lists))


def size(axes: Sequence[Axis]) -> int | None:
    """Return how many points there are; None where an axis is a range."""
    count = 1
    for axis in axes:
        if isinstance(axis.domain, Range):
            return None
        count *= len(axis.domain.values)
    return count


def corners(axes: Sequence[Axis]) -> Iterator[Point]:
    """Yield points in which every listed value and every end of a range occurs."""
    first = {axis.name: axis.domain.ends[0] for axis in axes}
    yield first
    for axis in axes:
        for value in axis.domain.ends[1:]:
            yield first | {axis.name: value}
