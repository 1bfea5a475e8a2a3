"""Random streams by what they are for, so that no draw depends on another or on arrival order."""

from zlib import crc32

import numpy as np


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A generator that is a function of (seed, purpose, numbers) only."""
    return np.random.default_rng([seed, crc32(purpose.encode()), *numbers])
