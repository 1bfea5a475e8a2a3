"""How a run that failed tells its exit code: Flower passes on nothing but an exception's text."""

import functools
import re
from collections.abc import Callable
from typing import ParamSpec

from fedadapt.errors import FedadaptError

P = ParamSpec("P")

FORM = re.compile(r"\(exit code (\d+)\)\s*$")


def tells_exit_code(main: Callable[P, None]) -> Callable[P, None]:
    """Let the errors of a ServerApp end with their exit code, as ``exit_code_in`` finds it."""

    @functools.wraps(main)
    def telling(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            main(*args, **kwargs)
        except FedadaptError as error:
            error.args = (f"{error} (exit code {error.exit_code})",)
            raise

    return telling


def exit_code_in(details: str) -> tuple[str, int | None]:
    """The text of a run's status without its exit code, and the code; None if there is none."""
    match = FORM.search(details)
    if match is None:
        return details, None
    return details[: match.start()].strip(), int(match[1])
