"""How long a run still takes: the estimate made before it, corrected by what its rounds took."""

import math
import time
from collections.abc import Callable

from fedadapt.simulations.estimate import Estimate, duration


class TimeLeft:
    """Seconds left of a run, at any moment of it.

    Before the first round has ended, it is the estimate less what has passed. After that a round is
    taken to last as long as the rounds so far did on average, evaluation between them included, and
    what comes after the last round (local adaptations, the final evaluation, training alone) is
    scaled by how much longer the rounds took than estimated. Without an estimate, only rounds are
    known.
    """

    def __init__(self, rounds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()
        self._rounds = rounds  # that were left at the beginning
        self._done = 0
        self._last = self._began  # when the last round ended
        self.estimate: Estimate | None = None

    def expect(self, estimate: Estimate) -> None:
        """Take an estimate of the whole of what is left."""
        self.estimate = estimate
        if not self._done:
            self._began = self._last = self._clock()  # measuring it took time, too

    def round_done(self) -> None:
        self._done += 1
        self._last = self._clock()

    @property
    def seconds(self) -> float:
        """Seconds left; NaN where nothing is known yet, 0 where it should have ended."""
        estimate, since = self.estimate, self._clock() - self._last
        if not self._done or not self._rounds:
            return max(0.0, estimate.total - since) if estimate else math.nan
        each = (self._last - self._began) / self._done
        afterwards = 0.0
        if estimate is not None:
            expected = estimate.training / self._rounds
            slower = each / expected if expected > 0 else 1.0
            afterwards = slower * (estimate.total - estimate.training)
        return max(0.0, (self._rounds - self._done) * each + afterwards - since)

    def __str__(self) -> str:
        seconds = self.seconds
        return "" if math.isnan(seconds) else f"{duration(seconds)} left"
