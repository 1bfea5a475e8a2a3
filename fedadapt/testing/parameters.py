"""The rule for parameters, of strategies and of adaptations alike."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from fedadapt.errors import InputError
from fedadapt.parameters import Described, Param, arguments_for, parameters
from fedadapt.testing.assertions import require


def require_described(
    cls: type[Any], label: str, construct: Callable[[dict[str, Any]], object]
) -> None:
    """Require a docstring, a line of help for each parameter, and ranges that are enforced.

    Args:
        cls: The class whose fields are made with ``param``.
        label: What the class is called by its users.
        construct: Constructs the class with these changes to its parameters.

    """
    summary = (cls.__doc__ or "").strip().split("\n")[0]
    generated = summary.startswith(f"{cls.__name__}(")  # by dataclass, where there is none
    require(summary and not generated, f"{label}: its class needs a docstring, for all listings")
    for described in parameters(cls).values():
        key = described.key
        require(described.param.help.strip(), f"{label}: {key} has no line of help")
        one_line = "\n" not in described.param.help
        require(one_line, f"{label}: the help of {key} has more than one line")
        for value in _not_allowed(described):
            change = {described.name: value}
            _require_refused(lambda: arguments_for(cls, change, "arguments", label), label, change)  # noqa: B023
            _require_refused(lambda: construct(change), label, change)  # noqa: B023
    _require_refused(
        lambda: arguments_for(cls, {"no-such-argument": 1}, "arguments", label),
        label,
        {"no-such-argument": 1},
    )


def _require_refused(call: Callable[[], object], label: str, changes: dict[str, Any]) -> None:
    [(key, value)] = changes.items()
    try:
        call()
    except InputError as error:
        one_line = "\n" not in str(error)
        require(one_line, f"{label}: the message that refuses {key}={value!r} has several lines")
    else:
        raise AssertionError(f"{label}: {key}={value!r} is not allowed, and was not refused")


def _not_allowed(described: Described) -> Iterator[Any]:
    """Values outside of the range, of another type, or not among the choices."""
    param, kind = described.param, described.scalar
    if param.check is not None:
        yield from (value for value in (math.nan, -math.inf) if not param.check(value))
        return
    if param.choices:
        yield "none of the choices"
    if kind in (int, float):
        yield from (kind(value) for value in _outside(param))
        yield "a word"
        yield True
    if kind is float:
        yield from (math.nan, math.inf)
    if kind is bool:
        yield "perhaps"


def _outside(param: Param) -> Iterator[float]:
    """The nearest whole numbers beyond each bound, and the bound itself where it is excluded."""
    if param.at_least is not None:
        yield math.ceil(param.at_least) - 1
    if param.above is not None:
        yield math.floor(param.above)
    if param.at_most is not None:
        yield math.floor(param.at_most) + 1
    if param.below is not None:
        yield math.ceil(param.below)
