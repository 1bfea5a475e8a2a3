"""A clock that tells the processor time of rounds as well, which a busy machine changes little."""

import os
from itertools import pairwise

from benchmarks.clock import Clock, Model
from benchmarks.memory import cpu_seconds, tree


class CpuClock(Clock):
    """Of each round but the first: processor seconds of this process, and of its descendants."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self._used: list[tuple[float, float]] = []

    def tick(self, model: Model | None = None) -> None:
        own = os.getpid()
        workers = sum(cpu_seconds(pid) for pid in tree(own) if pid != own)
        # What this process has waited for would count as its own.
        self._used.append((sum(os.times()[:2]), workers))
        super().tick(model)

    @property
    def facts(self) -> dict[str, object]:
        rounds = pairwise(self._used[1:])
        return {"looks": [[b - a for a, b in zip(*pair, strict=True)] for pair in rounds]}
