"""Which colour and which sign stand for a row, on the page and in the figures of a paper.

A method has a colour and a client model has a sign, so that rows of one method look alike.
"""

from collections.abc import Sequence

from fedadapt.records import LOCAL
from fedadapt.simulations.report.study.study import Entry
from fedadapt.simulations.report.style import ALONE, COLOURS

PALETTE = (
    *COLOURS[:3],
    "#7d6bbd",
    "#a8694a",
    "#5f8a3c",
    "#0e8a98",
    "#a55fb0",
    "#2f8fc4",
    "#808020",
)
"""Neighbours are far apart; each stands out on a white page and on a dark one."""

SIGNS = ("circle", "square", "triangle", "diamond", "star", "cross")
MARKERS = dict(zip(SIGNS, "os^D*P", strict=True))  # matplotlib's names
GLYPHS = dict(zip(SIGNS, "●■▲◆★✚", strict=True))


def colours(entries: Sequence[Entry]) -> list[str]:
    """Return the colour of each row: wine for training alone, one a method for all others."""
    names = list(dict.fromkeys(_family(e) for e in entries if not _alone(e)))
    return [
        ALONE if _alone(e) else PALETTE[names.index(_family(e)) % len(PALETTE)] for e in entries
    ]


def signs(entries: Sequence[Entry]) -> list[str]:
    """Return the sign of each row: one a client model."""
    labels = list(dict.fromkeys(entry.label for entry in entries))
    return [SIGNS[labels.index(entry.label) % len(SIGNS)] for entry in entries]


def _alone(entry: Entry) -> bool:
    return entry.label == LOCAL or entry.name == LOCAL


def _family(entry: Entry) -> tuple[str, ...]:
    return entry.name, *entry.settings
