"""What a study is, wherever its runs come from: rows with accuracies, curves, costs and links."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fedadapt.simulations.report.study.ranks import Ranks, ranks


class Curve(NamedTuple):
    """A mean accuracy over rounds or tasks, of one seed."""

    seed: str
    steps: tuple[float, ...]
    values: tuple[float, ...]  # in [0, 1]


class Shown(NamedTuple):
    """A cell of a table: its text, what it is sorted by, and whether it is the best."""

    text: str
    value: float | None = None
    best: bool = False


class Link(NamedTuple):
    """The page of a run, by an address from where the study's page is."""

    text: str
    address: str


class Grid(NamedTuple):
    """Another table of text; its first two columns are words."""

    title: str
    heads: tuple[str, ...]
    lines: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A row: one client model of one method, at one point of what is compared."""

    name: str  # of the method
    label: str = ""  # of the client model
    settings: tuple[str, ...] = ()  # a value for each of the study's
    population: int = 0  # place in the study's; accuracies of others are of other clients
    cells: tuple[Shown, ...] = ()  # one for each of the study's columns
    by_seed: tuple[float, ...] = ()  # mean accuracy of each seed, in [0, 1]
    published: float | None = None  # the paper's, in [0, 1]
    megabytes: float | None = None  # sent and received in training, all clients, mean over seeds
    seconds: float | None = None  # of CPU on all clients
    accuracy: Mapping[int, float] = field(default_factory=dict)  # of a client, mean over seeds
    gain: Mapping[int, float] = field(default_factory=dict)  # over the study's reference
    curves: tuple[Curve, ...] = ()
    matrix: tuple[tuple[float | None, ...], ...] = ()  # accuracy on task (column) after task (row)
    forgetting: float | None = None
    series: str = ""  # of a sweep: what stays the same along its axes
    point: Mapping[str, float | str] = field(default_factory=dict)  # of a sweep: axis -> value
    links: tuple[Link, ...] = ()

    @property
    def title(self) -> str:
        """The row in words."""
        said = " ".join(part for part in (self.name, *self.settings) if part)
        return " · ".join(part for part in (said, self.label) if part)

    @property
    def mean(self) -> float | None:
        return float(np.mean(self.by_seed)) if self.by_seed else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Everything on the page of a study."""

    what: str  # "Comparison", "Sweep", "Reproduction"
    title: str
    line: str  # below the title
    notes: tuple[str, ...]  # what a reader must know before believing the numbers
    settings: tuple[str, ...]  # in which rows differ
    columns: tuple[str, ...]
    entries: tuple[Entry, ...]
    populations: tuple[str, ...] = ("",)
    comparable: tuple[bool, ...] = (True,)  # all rows of a population are of the same clients
    reference: str = ""  # what gains are over
    step: str = "round"
    axes: tuple[str, ...] = ()  # of a sweep
    grids: tuple[Grid, ...] = ()

    @property
    def what_is_compared(self) -> str:
        return "Settings" if self.axes else "Methods"

    @property
    def has_published(self) -> bool:
        return any(entry.published is not None for entry in self.entries)

    @property
    def has_matrix(self) -> bool:
        return any(entry.matrix for entry in self.entries)

    @property
    def num_tasks(self) -> int:
        return max((len(entry.matrix) for entry in self.entries), default=0)

    @property
    def has_costs(self) -> bool:
        return any(entry.megabytes for entry in self.entries)

    @property
    def has_seconds(self) -> bool:
        return any(entry.seconds for entry in self.entries)

    def ranks(self, population: int) -> Ranks | None:
        """Rank the entries of a population on the clients that all of them have.

        The places of the result are those of ``entries``. None where there is nothing to rank.
        """
        places = [
            place
            for place, entry in enumerate(self.entries)
            if entry.population == population and entry.accuracy
        ]
        if not self.comparable[population] or len(places) < 2:
            return None
        of = [self.entries[place].accuracy for place in places]
        clients = sorted(set.intersection(*({*accuracy} for accuracy in of)))
        found = ranks(np.array([[accuracy[c] for c in clients] for accuracy in of]))
        if found is None:
            return None
        return found._replace(methods=tuple(places[row] for row in found.methods))
