"""Draw the clients of a round and the clients to be evaluated, from the seed alone."""

import zlib
from collections.abc import Sequence

import numpy as np


def sample(clients: Sequence[int], fraction: float, seed: int, round: int) -> tuple[int, ...]:
    """Draw ``fraction`` of ``clients``, at least one, without replacement; ascending."""
    count = max(1, int(fraction * len(clients) + 0.5))
    if count >= len(clients):
        return tuple(clients)
    return _drawn(clients, count, (seed, zlib.crc32(b"sampling"), round))


def evaluation_sample(
    seen: Sequence[int], unseen: Sequence[int], most: int, seed: int
) -> tuple[int, ...]:
    """Return the clients to be evaluated: all, or ``most`` of them if there are more; ascending.

    The sample is the same in all rounds of a run, so that rounds can be compared. Seen and unseen
    clients are drawn in proportion, at least one of each.

    Args:
        most: The largest number of clients; 0 for no limit.

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
