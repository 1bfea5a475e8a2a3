"""How the learning rate changes over the rounds of a run. No torch."""

import math
import re
from dataclasses import dataclass
from typing import Literal

ALLOWED = "constant, cosine, or step:EVERY:FACTOR, as in step:10:0.1"
_STEP = re.compile(r"step:(\d+):(\d*\.?\d+)")


@dataclass(frozen=True)
class LrSchedule:
    """The factor of the learning rate in each round; within a round it stays.

    ``constant``: 1. ``cosine``: (1 + cos(pi (r - 1) / R)) / 2 in round r of R (Loshchilov and
    Hutter 2017, without restarts). ``step``: ``factor`` to the power of the whole number in
    (r - 1) / every.
    """

    kind: Literal["constant", "cosine", "step"] = "constant"
    every: int = 1  # rounds
    factor: float = 1.0

    @staticmethod
    def of(text: str) -> "LrSchedule":
        """Read a setting that ``is_schedule`` has found well formed."""
        if step := _STEP.fullmatch(text):
            return LrSchedule("step", int(step[1]), float(step[2]))
        return LrSchedule("cosine") if text == "cosine" else LrSchedule()

    def at(self, done: float, rounds: int) -> float:
        """Return the factor of the round that follows ``done`` of ``rounds`` rounds."""
        if self.kind == "cosine":
            return (1 + math.cos(math.pi * min(1.0, done / rounds))) / 2
        if self.kind == "step":
            return self.factor ** int(round(done, 9) // self.every)
        return 1.0


CONSTANT = LrSchedule()


def is_schedule(text: str) -> bool:
    """Return whether a setting is well formed."""
    step = _STEP.fullmatch(text)
    if step is not None:
        return int(step[1]) >= 1 and 0 < float(step[2]) <= 1
    return text in ("constant", "cosine")
