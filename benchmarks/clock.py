"""How long rounds take: ticked at the start of each, and the one that says when it is enough."""

import statistics
import time
from collections.abc import Callable, Mapping

from torch import Tensor

Model = Callable[[], Mapping[str, Tensor]]
"""Makes the state dict of the global model, if anybody wants to look at it."""


class Enough(Exception):
    """Enough rounds are measured."""


class Clock:
    """Seconds of rounds, without the first, which has start-up in it."""

    def __init__(self, seconds: float) -> None:
        """Be content with one round, or as many as fit into ``seconds``."""
        self._seconds = seconds
        self._ticks: list[float] = []

    def tick(self, model: Model | None = None) -> None:
        """A round begins.

        Args:
            model: That the round begins with; see ``benchmarks.accuracy_clock``.

        Raises:
            Enough: no, it need not.

        """
        self._ticks.append(time.perf_counter())
        if len(self._ticks) > 2 and self._ticks[-1] - self._ticks[1] >= self._seconds:
            raise Enough

    def forget(self) -> None:
        """Another process's rounds count."""
        self._ticks.clear()

    @property
    def rounds(self) -> list[float]:
        """Seconds of each round from the second on."""
        return [b - a for a, b in zip(self._ticks[1:], self._ticks[2:], strict=False)]

    @property
    def facts(self) -> dict[str, object]:
        """What else was seen."""
        return {}

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)
