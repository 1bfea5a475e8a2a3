"""Who takes part in a round, and who is evaluated: the seed decides, never who answers first."""

import zlib
from collections.abc import Sequence

import numpy as np


def sample(clients: Sequence[int], fraction: float, seed: int, round: int) -> tuple[int, ...]:
    """``fraction`` of ``clients``, at least one, drawn without replacement; ascending."""
    count = max(1, int(fraction * len(clients) + 0.5))
    if count >= len(clients):
        return tuple(clients)
    return _drawn(clients, count, (seed, zlib.crc32(b"sampling"), round))


def evaluation_sample(
    seen: Sequence[int], unseen: Sequence[int], most: int, seed: int
) -> tuple[int, ...]:
    """The clients that are evaluated: all, or ``most`` of them where there are more; ascending.

    The same ones whenever it is asked in a run, so that rounds can be compared. Seen and unseen
    clients are in it in proportion, each with one at least.

    Args:
        most: At least 1; 0 for no limit.

    """
    everyone = tuple(sorted((*seen, *unseen)))
    if not most or most >= len(everyone):
        return everyone
    of_unseen = round(most * len(unseen) / len(everyone))
    of_unseen = min(max(of_unseen, int(bool(unseen))), most - int(bool(seen)))
    key = (seed, zlib.crc32(b"panel"))
    chosen = (
        *_drawn(seen, most - of_unseen, (*key, 0)),
        *_drawn(unseen, of_unseen, (*key, 1)),
    )
    return tuple(sorted(chosen))


def _drawn(clients: Sequence[int], count: int, key: tuple[int, ...]) -> tuple[int, ...]:
    chosen = np.random.default_rng(key).choice(np.asarray(clients, int), count, replace=False)
    return tuple(sorted(chosen.tolist()))
