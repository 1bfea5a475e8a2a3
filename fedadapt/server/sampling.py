"""Who takes part in a round: a function of (seed, round), never of who answered first."""

import zlib
from collections.abc import Sequence

import numpy as np


def sample(devices: Sequence[int], fraction: float, seed: int, round: int) -> tuple[int, ...]:
    """``fraction`` of ``devices``, at least one, drawn without replacement; ascending."""
    count = max(1, int(fraction * len(devices) + 0.5))
    if count >= len(devices):
        return tuple(devices)
    generator = np.random.default_rng((seed, zlib.crc32(b"sampling"), round))
    return tuple(sorted(generator.choice(np.asarray(devices), count, replace=False).tolist()))
