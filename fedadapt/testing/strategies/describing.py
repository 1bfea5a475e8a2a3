"""The rule for a strategy's class: its parameters explain themselves, and it is final."""

import inspect
from dataclasses import fields as dataclass_fields

from fedadapt.parameters import arguments_for, parameters
from fedadapt.strategies.registry import find
from fedadapt.testing.assertions import require
from fedadapt.testing.parameters import require_described
from fedadapt.testing.setups import Arguments, setups


def parameters_explain_themselves(name: str, arguments: Arguments | None = None) -> None:
    """Every parameter has a line of help and refuses what is out of its range with InputError."""
    cls = find(name)
    require(not inspect.isabstract(cls), f"{name}: the class is abstract")
    with setups(name, arguments) as cases:
        strategy = cases[0].worker().strategy
        fields = {
            field: getattr(strategy, field)
            for field in (f.name for f in dataclass_fields(cls) if f.init)
        }
    chosen = arguments_for(cls, arguments or {}, "arguments", name)
    for key, value in chosen.items():
        same = fields[key] == value
        require(same, f"{name}: {key} is {fields[key]!r}, although {value!r} was given")
    require(type(strategy) is cls, f"{name}: it constructs a {type(strategy).__name__}")
    _ = parameters(cls)
    require_described(cls, name, lambda changes: cls(**{**fields, **changes}))
