"""Rules as users write them: ``iid``, ``dirichlet:0.3``, ``corruption:jpeg:3``.

A rule is a frozen dataclass. Its ``name`` is the word that is written, its parameters are the
values after the colons, in the order of its fields. A table of rules (name -> class) is all that
``read_rule`` needs: ranges, forms and error messages follow from the parameters. No torch, no
numpy: the command line refuses a bad word at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from fedadapt.errors import InputError, unknown
from fedadapt.parameters import Described, check_parameters, parameters


@dataclass(frozen=True)
class Rule:
    """A named rule with its parameters.

    Raises:
        InputError: A parameter is out of range.

    """

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_parameters(self, f"{self.name}: ")

    def __str__(self) -> str:
        """The rule as it is written; ``read_rule`` is the inverse."""
        values = (getattr(self, name) for name in parameters(type(self)))
        return ":".join([self.name, *(_text(value) for value in values if value is not None)])


R = TypeVar("R", bound=Rule)


def table(*rules: type[R]) -> dict[str, type[R]]:
    """Rules by the word that is written for them."""
    return {rule.name: rule for rule in rules}


def read_rule(key: str, text: str, rules: Mapping[str, type[R]], also: tuple[str, ...] = ()) -> R:
    """Read ``name:value:value`` as one of the rules.

    Args:
        key: The setting it is of, e.g. ``partition``, for messages.
        also: Words that are allowed as well and read elsewhere, for messages.

    Raises:
        InputError: An unknown name, or a value that is missing, malformed or out of range.

    """
    name, *values = text.split(":")
    if name not in rules:
        raise unknown(key, name, (*rules, *also))
    rule = rules[name]
    known = list(parameters(rule).values())
    if not known and values:
        raise InputError(f"{key}: {text!r}: {name} takes no number; write {name}")
    if values == [] and all(p.default is None for p in known):
        return rule()
    if len(values) != len(known) or not all(values):
        if len(known) == 1 and not any(values):
            raise InputError(f"{key}: {text!r} lacks its number; write {_form(rule)}")
        raise InputError(f"{key}: {text!r} is not of the form {_form(rule)}")
    return rule(
        **{p.name: _value(key, text, rule, p, v) for p, v in zip(known, values, strict=True)}
    )


def _value(key: str, text: str, rule: type[Rule], described: Described, value: str) -> Any:
    """One value in its parameter's type, within its range."""
    if described.scalar is str:
        return described.checked(value, key)
    try:
        number = float(value)
    except ValueError:
        raise InputError(
            f"{key}: {text!r}: {value!r} is not a number; write {_form(rule)}"
        ) from None
    whole = described.scalar is int
    if not described.param.holds(number) or (whole and not number.is_integer()):
        raise InputError(f"{key}: {text!r}: {value} must be {described.values}")
    return int(number) if whole else number


def _form(rule: type[Rule]) -> str:
    """How a rule is written, with an example: ``dirichlet:ALPHA, e.g. dirichlet:0.3``."""
    known = parameters(rule).values()
    form = ":".join([rule.name, *(p.key.upper() for p in known)])
    if any(p.default is None for p in known):
        return f"{form} or {rule.name}"
    return f"{form}, e.g. {':'.join([rule.name, *(_text(p.default) for p in known)])}"


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
