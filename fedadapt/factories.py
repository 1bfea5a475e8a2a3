"""Call functions that users write: with what they ask for, and with errors in one line."""

from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from typing import Any

from fedadapt.errors import FedadaptError, InputError, one_line


def call_factory(
    kind: str, name: str, factory: Callable[..., Any], offered: Mapping[str, Any], takes: str
) -> Any:
    """Call a factory with those of the offered arguments that it has parameters for.

    Args:
        kind: The setting that names the factory, for messages: ``model``.
        name: What the user wrote.
        offered: Arguments by name.
        takes: What a factory may take, in words, for messages.

    Raises:
        InputError: The factory cannot be called, or it fails.

    """
    if not callable(factory):
        raise InputError(f"{kind}: {name!r} is a {type(factory).__name__}; it must be a function")
    arguments = {key: value for key, value in offered.items() if _takes(factory, key)}
    try:
        return factory(**arguments)
    except FedadaptError:
        raise
    except Exception as error:  # a user's function may raise anything
        given = ", ".join(f"{key}={one_line(repr(value), 60)}" for key, value in arguments.items())
        raise InputError(
            f"{kind}: {name!r} failed with {given or 'no arguments'} ({reason_of(error)}); "
            f"it takes {takes}"
        ) from error


def reason_of(error: Exception) -> str:
    """An exception in one line: its type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def _takes(factory: Callable[..., object], argument: str) -> bool:
    try:
        parameters = signature(factory).parameters
    except ValueError:  # written in C
        return True
    return argument in parameters or any(
        p.kind is Parameter.VAR_KEYWORD for p in parameters.values()
    )
