"""One description of a parameter: its default, its line of help and what it may be.

Strategies, adaptations, partitions, shifts, attacks and the run's own settings are dataclasses
whose fields are made with ``param``. Ranges, types, error messages, ``--help``, the tables of the
documentation and ``fedadapt strategies`` are all read from that description. No torch here.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from unicodedata import category

from fedadapt.errors import InputError, nearest, unknown

Scalar = bool | int | float | str

_KEY = "fedadapt"
_WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}


@dataclass(frozen=True)
class Param:
    """What is known of a parameter beside its name, type and default."""

    help: str
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], bool] | None = None
    allowed: str = ""  # in words, where ``check`` decides

    @property
    def range(self) -> str:
        """The range as it is printed: ``>= 0 and < 1``; empty where anything goes."""
        bounds = ((">=", self.at_least), (">", self.above), ("<=", self.at_most), ("<", self.below))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)

    def holds(self, value: float) -> bool:
        """Whether a number lies in the range; NaN and infinity never do."""
        return (
            (isinstance(value, int) or math.isfinite(value))  # some are too large for a float
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


def param(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    check: Callable[[Any], bool] | None = None,
    allowed: str = "",
) -> Any:
    """Make a dataclass field that a user may set.

    Args:
        default: Its value where nothing is given.
        help: One line, as ``--help`` and the documentation print it.
        at_least: Smallest value allowed; ``above``, ``at_most`` and ``below`` likewise.
        choices: The words allowed.
        check: Decides where neither a range nor choices can; ``allowed`` says it in words.

    """
    described = Param(help, at_least, above, at_most, below, choices, check, allowed)
    return field(default=default, metadata={_KEY: described})


def from_run(*, default: Any = MISSING, default_factory: Any = MISSING) -> Any:
    """Make a dataclass field that comes from the run, under the same name as in ``Run``.

    A field that is made from settings (``training`` from ``lr``, ``momentum``, ...) is what makes
    the class use these settings: a run refuses those that nothing in it is made from.
    """
    given = {"default": default, "default_factory": default_factory}
    given = {name: value for name, value in given.items() if value is not MISSING}
    return field(**given, metadata={_KEY: "from the run"})


@dataclass(frozen=True)
class Described:
    """A parameter of a class: its name, type, default and description."""

    name: str  # snake_case
    type: Any
    default: Any
    param: Param

    @property
    def key(self) -> str:
        """The name as it is written outside: kebab-case."""
        return self.name.replace("_", "-")

    @property
    def shown(self) -> str:
        """The default as it is printed; empty where there is none."""
        if self.default is None:
            return ""
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)

    @property
    def values(self) -> str:
        """What it may be, for tables: ``true or false``, ``a or b``, ``number > 0``."""
        if self.param.allowed:
            return self.param.allowed
        if self.param.choices:
            return " or ".join(self.param.choices)
        word = _WORDS[self.scalar]
        return f"{word} {self.param.range}".strip()

    @property
    def scalar(self) -> type:
        """The type of a value that is given: bool, int, float or str."""
        return _scalar(self.type)

    def checked(self, value: Any, where: str) -> Any:
        """Return ``value`` in the parameter's type.

        Args:
            where: What the message begins with, e.g. ``strategy-args: mu``.

        Raises:
            InputError: The type or the value is not allowed.

        """
        if value is None and type(None) in get_args(self.type):
            return None
        kind = self.scalar
        if self.param.check is not None:
            if not self.param.check(value):
                raise InputError(f"{where}: {value!r}; it must be {self.param.allowed}")
            return value
        if kind is float and type(value) is int:
            value = as_float(value)
        if type(value) is not kind:
            raise InputError(
                f"{where}: expected {kind.__name__}, got {type(value).__name__} {value!r}"
            )
        if kind is str and any(category(c) in ("Cc", "Cs") and c not in "\t\n" for c in value):
            raise InputError(f"{where}: {ascii(value)[:60]} has characters that are no text")
        if kind is float and not math.isfinite(value):
            raise InputError(f"{where}: {value} is not a finite number")
        if self.param.choices and value not in self.param.choices:
            raise unknown(where, str(value), self.param.choices)
        if kind in (int, float) and not self.param.holds(value):
            raise InputError(
                f"{where}: {str(value)[:40]} is out of range; it must be {self.param.range}"
            )
        return value


def parameters(cls: type) -> dict[str, Described]:
    """The parameters of a dataclass by name, in the order in which they are written."""
    types = get_type_hints(cls)
    return {
        f.name: Described(f.name, types[f.name], f.default, f.metadata[_KEY])
        for f in fields(cls)
        if isinstance(f.metadata.get(_KEY), Param)
    }


def fields_from_run(cls: type) -> frozenset[str]:
    """The names of the fields that come from the run."""
    return frozenset(f.name for f in fields(cls) if f.metadata.get(_KEY) == "from the run")


def check_parameters(instance: Any, where: str = "") -> None:
    """Check every parameter of a frozen dataclass; for its ``__post_init__``.

    Numbers given as ``int`` where a ``float`` is meant are converted.

    Raises:
        InputError: One line for the first that is not allowed.

    """
    for described in parameters(type(instance)).values():
        place = f"{where}{described.key}"
        value = described.checked(getattr(instance, described.name), place)
        object.__setattr__(instance, described.name, value)


def arguments_for(
    cls: type, given: Mapping[str, Any], where: str, name: str, prefix: str = ""
) -> dict[str, Any]:
    """Arguments for ``cls`` from keys in kebab-case or snake_case, each checked.

    Args:
        where: The setting they come from, e.g. ``strategy-args``.
        name: What the class is called by its users, e.g. ``pfa``.
        prefix: What stands before an argument where it is written, e.g. ``kd.``.

    Raises:
        InputError: An argument that the class does not take, or a value that is not allowed.

    """
    known = parameters(cls)
    found = {}
    for key, value in given.items():
        argument = key.replace("-", "_")
        if argument not in known:
            keys = tuple(known)
            hint = nearest(argument, keys)
            has = ", ".join(keys) or "none"
            raise InputError(f"{where}: {name} has no argument {key!r}{hint}; it has: {has}")
        found[argument] = known[argument].checked(value, f"{where}: {prefix}{key}")
    return found


def as_float(value: int) -> float:
    """``value`` as a float; infinite where it is larger than any."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _scalar(annotation: Any) -> type:
    """The scalar behind an annotation: ``float`` of ``float | None``, ``str`` of a ``Literal``."""
    origin = get_origin(annotation)
    if origin is Literal:
        return type(get_args(annotation)[0])
    if origin in (Union, UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        return _scalar(inner[0])
    if annotation not in _WORDS:
        raise TypeError(f"a parameter is a bool, int, float or str, not {annotation}")
    return annotation


def rows(cls: type) -> Iterator[tuple[str, str, str, str]]:
    """A table of the parameters: key, default, what it may be, help."""
    for described in parameters(cls).values():
        yield described.key, described.shown, described.values, described.param.help
