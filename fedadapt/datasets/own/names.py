"""How a run names data that belong to its clients. No torch, no numpy."""

OWN = "own"
"""``benchmark=own``: every client has data of its own, and the server has none."""
REHEARSAL = "own:"
"""``benchmark=own:/folder``: the same with simulated clients, ``<client>/<class>/*.jpg``."""


def is_own(benchmark: str) -> bool:
    """Whether the clients' data are their own, on real clients or in a rehearsal."""
    return benchmark == OWN or benchmark.startswith(REHEARSAL)
