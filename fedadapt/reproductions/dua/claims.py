"""The rankings in DUA's tables, checked on any results. On the published ones all hold.

No torch, no numpy.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from fedadapt.reproductions.dua.published import Key, Score

CLOSE = 1.0  # points between RACL and IMM


class Claim(NamedTuple):
    """A ranking that should hold, and its margin."""

    text: str
    points: float  # the smallest margin between a better and a worse method
    holds: bool


MERGED = ("MAS-RACL", "FIM-RACL", "MAS-IMM", "FIM-IMM")
LADDER = (("Task Experts",), ("Joint",), ("LwF",), ("EWC", "MAS"), MERGED)
"""The ranking of table 4 without adaptation: each method is better than all that follow."""


def claims(scores: Mapping[Key, Score], *, digits: bool) -> Iterator[Claim]:
    """Return the claims that these accuracies allow to check.

    Args:
        digits: Fisher beats MAS on pairs of digits; of scenes the paper shows no such order.

    """
    plain = {method: s.accuracy for (method, how), s in scores.items() if how == "none"}
    adapted = [(method, how) for method, how in scores if how != "none"]
    if not adapted:
        for kind in ("MAS", "FIM"):
            racl, imm = f"{kind}-RACL", f"{kind}-IMM"
            if racl in plain and imm in plain:
                gap = plain[racl] - plain[imm]
                yield Claim(f"|{racl} - {imm}| < {CLOSE:g} point", gap, abs(gap) < CLOSE)
        for rule in ("RACL", "IMM") if digits else ():
            yield from _above(plain, (f"FIM-{rule}",), (f"MAS-{rule}",))
        return
    for above, below in pairwise(LADDER):
        yield from _above(plain, above, below)
    gains = [s.accuracy - plain[m] for (m, how), s in scores.items() if how == "adabn-s"]
    if gains:
        yield _claim("AdaBN-S > BN for every method", gains)


def _above(
    plain: Mapping[str, float], above: tuple[str, ...], below: tuple[str, ...]
) -> Iterator[Claim]:
    gaps = [plain[a] - plain[b] for a in above for b in below if a in plain and b in plain]
    if gaps:
        yield _claim(f"{_either(above)} > {_either(below)}", gaps)


def _claim(text: str, gaps: Iterable[float]) -> Claim:
    smallest = min(gaps)
    return Claim(text, smallest, smallest > 0)


def _either(methods: tuple[str, ...]) -> str:
    return "IMM, RACL" if methods == MERGED else ", ".join(methods)
