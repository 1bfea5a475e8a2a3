"""Shorter waits for what is on its way: Flower waits longer and longer, up to ten seconds.

Who asks for a part of a message that has not arrived yet waits 1 s, then 2, 4, 8 and 10. In a
process that is started anew for every message the parts are there before it asks; a warm one asks
at once, and would wait most of the time. A part is then asked for every half second at most.
"""

import functools
from collections.abc import Callable
from typing import Any

FIRST, LONGEST = 0.05, 0.5  # seconds


def with_short_waits(pull: Callable[..., Any]) -> Callable[..., Any]:
    """Flower's ``pull_objects``, or what calls it, with shorter waits and no other limit of tries.

    Flower's limit in time, two hours, stays.
    """
    return functools.partial(
        pull, initial_backoff=FIRST, backoff_cap=LONGEST, max_tries_per_object=None
    )


def shorten_waits_of_server() -> None:
    """Let the ServerApp of this process wait shorter; where Flower has moved it, nothing is done.

    It makes no difference to what is computed.
    """
    from flwr.superlink.grid import http_grid

    _shorten(http_grid)


def shorten_waits_of_node() -> None:
    """The same for the SuperNode of this process."""
    from flwr.supernode import start_client_internal

    _shorten(start_client_internal)


def _shorten(module: Any) -> None:
    pull = getattr(module, "pull_objects", None)
    if callable(pull) and not isinstance(pull, functools.partial):
        module.pull_objects = with_short_waits(pull)
