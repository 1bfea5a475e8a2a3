"""How long the runs of a study still take, told from those that have been made. No torch."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fedadapt.config import RunConfig


class RunsLeft:
    """The runs of a study in order, one of them under way.

    A run is taken to last as long as those of its strategy did on average, and one of a strategy
    that has not been run yet as long as all so far did. Runs that are there already cost nothing.
    """

    def __init__(
        self, runs: Sequence[RunConfig], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._runs = runs
        self._clock = clock
        self._began = clock()
        self._took: dict[str, list[float]] = {}  # strategy -> seconds of its runs
        self._strategy = ""  # of the run under way
        self._to_come: list[str] = []  # strategies of the runs after it, without those made
        self.number = 0  # of the run under way, from 1

    @property
    def count(self) -> int:
        return len(self._runs)

    @property
    def passed(self) -> float:
        """Seconds since the study began."""
        return self._clock() - self._began

    def begin(self, config: RunConfig) -> str:
        """Say that a run begins; how long it and those after it take, in brackets, or nothing."""
        place = self._runs.index(config)
        self.number, self._strategy = place + 1, config.strategy
        self._to_come = [run.strategy for run in self._runs[place + 1 :] if not _is_made(run)]
        left = self._to_come if _is_made(config) else [config.strategy, *self._to_come]
        minutes = self._seconds(left, self._took) / 60
        return f" (about {minutes:.0f} min left)" if minutes >= 1 else ""

    def made(self, summary: Mapping[str, Any]) -> None:
        """Take in the summary of the run that was under way."""
        self._took.setdefault(self._strategy, []).append(float(summary["seconds"]))

    def after(self, this: float) -> float:
        """Return the seconds of the runs after the one under way, which takes ``this`` in all.

        NaN where nothing is known: ``this`` may be NaN.
        """
        took = dict(self._took)
        if not math.isnan(this):
            took[self._strategy] = [*took.get(self._strategy, []), this]
        return self._seconds(self._to_come, took)

    def _seconds(self, strategies: Sequence[str], took: Mapping[str, Sequence[float]]) -> float:
        every = [seconds for of_strategy in took.values() for seconds in of_strategy]
        if not strategies:
            return 0.0
        if not every:
            return math.nan
        return sum(fmean(took.get(strategy, every)) for strategy in strategies)


def _is_made(run: RunConfig) -> bool:
    return (Path(run.out) / "summary.json").exists()
