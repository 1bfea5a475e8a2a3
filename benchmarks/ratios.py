"""What the speeds come to: engines beside each other, and beside what is asked for."""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Rates = Mapping[str, Sequence[float]]  # engine -> clients a second, one number a repetition

BARE = ("bare-1", "bare", "bare-cl")  # in the same arithmetic as ``ours``
BARE_BF16 = (*BARE, "bare-bf16")
FLOOR = 0.95  # of the best bare loop
REQUIRED = {  # (work, ours) -> times stock Flower, times pfl-research
    ("W1", "ours"): (30.0, 4.5),
    ("W2", "ours"): (2.3, 1.6),
    ("W2", "ours-bf16"): (3.6, 2.5),
    ("W3", "ours"): (4.5, 2.3),
}


class Verdict(NamedTuple):
    """One ratio that is asked for."""

    work: str
    ours: str
    beside: str
    ratio: float
    required: float

    @property
    def met(self) -> bool:
        return self.ratio >= self.required


def ratio(rates: Rates, engine: str, beside: str) -> float | None:
    """How many times as fast, by the medians; None where either was not measured."""
    if not (rates.get(engine) and rates.get(beside)):
        return None
    return statistics.median(rates[engine]) / statistics.median(rates[beside])


def best_bare(rates: Rates, engine: str) -> str:
    """The fastest bare loop in the arithmetic of ``engine``; "" where none was measured."""
    loops = BARE_BF16 if engine.endswith("bf16") else BARE
    there = [loop for loop in loops if rates.get(loop)]
    return max(there, key=lambda loop: statistics.median(rates[loop]), default="")


def verdicts(work: str, rates: Rates) -> list[Verdict]:
    """Every ratio asked for of which both sides were measured."""
    found = []
    for ours in ("ours", "ours-bf16"):
        flower, pfl = REQUIRED.get((work, ours), (None, None))
        asked = {"flower": flower, "pfl": pfl, best_bare(rates, ours): FLOOR}
        for beside, required in asked.items():
            times = ratio(rates, ours, beside)
            if times is not None and required is not None:
                found.append(Verdict(work, ours, beside, times, required))
    return found
