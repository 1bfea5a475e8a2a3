"""Options that all reproductions share. No torch."""

from collections.abc import Mapping
from typing import Any

from fedadapt.errors import InputError

OVERRIDES: dict[str, type] = {
    "model": str, "weights": str, "normalization": str, "clients": int, "local_epochs": int,
    "examples": int, "image_size": int, "test_share": float, "data_root": str, "device": str,
    "workers": int, "partition": str, "track": str,
}  # fmt: skip
"""Settings of the runs that may be changed: fields of ``RunConfig``."""

Options = Mapping[str, Any]
"""The options that were given on the command line, by name."""


def overrides(options: Options) -> dict[str, Any]:
    """Return the options that change settings of the runs."""
    return {name: value for name, value in options.items() if name in OVERRIDES}


def numbers(text: str, what: str) -> tuple[int, ...]:
    """``"7,8,9"`` -> (7, 8, 9).

    Raises:
        InputError: The text is no such list, or a number is given twice.

    """
    try:
        parsed = tuple(int(word) for word in text.split(","))
    except ValueError:
        parsed = ()
    if not parsed or len(set(parsed)) < len(parsed) or min(parsed) < 0:
        raise InputError(f"{what}: {text!r}; give different whole numbers separated by commas")
    return parsed
