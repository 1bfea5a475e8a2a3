"""A clock that tells the processor time of rounds as well, which a busy machine changes little."""

import os
import time

from benchmarks.clock import Clock, Model
from benchmarks.memory import cpu_seconds, tree


class CpuClock(Clock):
    """Processor seconds of a round: of this process, and of its descendants.

    They are means over all rounds but the first: the system counts in hundredths of a second.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self._used: list[tuple[float, float]] = []

    def tick(self, model: Model | None = None) -> None:
        own = os.getpid()
        workers = sum(cpu_seconds(pid) for pid in tree(own) if pid != own)
        self._used.append((time.process_time(), workers))
        super().tick(model)

    @property
    def facts(self) -> dict[str, object]:
        first, last, count = self._used[1], self._used[-1], len(self._used) - 2
        return {"looks": [[(b - a) / count for a, b in zip(first, last, strict=True)]]}
