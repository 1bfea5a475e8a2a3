"""Settings as Python gives them, turned into those of the command line."""

import shlex
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fedadapt.config import RunConfig
from fedadapt.errors import InputError, nearest

CLASSES = ("strategy", "model", "partition")  # may be given as what they name
ARGUMENTS = ("strategy_args", "adapt_args")
LISTS = ("adapt", "classes", "track")


def options_of(
    given: Mapping[str, Any], where: str, left_out: Collection[str] = ()
) -> dict[str, Any]:
    """Return the values by the names of ``RunConfig``'s fields; None stands for the default.

    Args:
        given: Keyword arguments.
        where: The function that they were given to, for messages.
        left_out: Fields that it does not take.

    Raises:
        InputError: An unknown name, or a value that cannot be written as a setting.

    """
    known = [field.name for field in fields(RunConfig) if field.name not in left_out]
    for name in given:
        if name not in known:
            raise InputError(f"{where}: unknown setting {name!r}{nearest(name, known)}")
    return {name: _setting(name, value) for name, value in given.items()}


def _setting(name: str, value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if name in CLASSES and callable(value):
        return path_of(value, name)
    if name in ARGUMENTS and isinstance(value, Mapping):
        return arguments(value, name)
    if name in LISTS and isinstance(value, Iterable) and not isinstance(value, str):
        return ",".join(path_of(v, name) if callable(v) else str(v) for v in value)
    return value.item() if hasattr(value, "item") else value  # a number of NumPy


def path_of(thing: Any, name: str) -> str:
    """Return ``module:Class``, by which the processes that compute clients import it.

    Raises:
        InputError: It is defined where they cannot.

    """
    module, qualname = thing.__module__, thing.__qualname__
    if module == "__main__" or not qualname.isidentifier():
        raise InputError(
            f"{name}: {qualname} is defined in a notebook, a script or a function, where other "
            f"processes cannot import it; write it to a file, say mine.py, and give "
            f'"mine:{qualname.rpartition(".")[2]}"'
        )
    return f"{module}:{qualname}"


def arguments(values: Mapping[str, Any], name: str) -> str:
    """``{"mu": 0.1}`` -> ``mu=0.1``; ``{"kd": {"lr": 0.1}}`` -> ``kd.lr=0.1``."""
    words = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            words += [f"{key}.{word}" for word in shlex.split(arguments(value, name))]
        else:
            words.append(f"{key}={_scalar(value, f'{name}: {key}')}")
    return " ".join(map(shlex.quote, words))


def _scalar(value: Any, where: str) -> str:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        raise InputError(f"{where}: {value!r}; a value is a number, true, false or a word")
    try:
        is_bare = tomllib.loads(f"x = {value}")["x"] == value
    except tomllib.TOMLDecodeError:
        is_bare = True  # a word that TOML knows no other meaning of
    return value if is_bare else f"'{value}'"
