"""What each row of a comparison is worth beside a reference, and how sure that is.

A client is its own control: the test is of its differences, not of two groups of clients.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedadapt.records import LOCAL
from fedadapt.simulations.results.accuracies import TOLERANCE, Accuracies
from fedadapt.simulations.results.comparison import (
    OVER_LOCAL,
    Cell,
    Column,
    Line,
    Summary,
    Table,
    cell_of,
)

FEW = 13  # clients, up to which scipy is exact where ranks tie
Of = Callable[[int], Accuracies]  # the place of a run -> its last accuracies


class Reference(NamedTuple):
    """What rows are held against: a label of a strategy."""

    strategy: str  # "": of any, where all agree on it
    label: str
    gain: Column  # the mean difference
    p: Column  # how sure it is


def _nowhere(summary: Summary, label: str) -> None:
    """No summary has what is told by comparing runs."""


OVER_FINE_TUNED = Column("over_fine_tuned", "over FedAvg+FT, points", _nowhere, 2, 100, max)
P_FINE_TUNED = Column("p_fine_tuned", "p, FedAvg+FT", _nowhere, 4, 1, None)
P_LOCAL = Column("p_local", "p, local", _nowhere, 4, 1, None)

FINE_TUNED = Reference("fedavg", "base+fine-tune", OVER_FINE_TUNED, P_FINE_TUNED)
ALONE = Reference("", LOCAL, OVER_LOCAL, P_LOCAL)
STRATEGY_LOCAL = Reference("local", "personal", OVER_LOCAL, P_LOCAL)  # with settings of its own


def beside(table: Table, summaries: Sequence[Summary], of: Of, reference: Reference) -> Table:
    """Return the table with two more columns: the gain over a reference, and how sure it is.

    The gain of a row is the mean over clients of the difference, for each seed; the cell has mean
    and spread over seeds. The p-value is that of Wilcoxon's signed-rank test (1945) over clients,
    two-sided, each with its mean difference over seeds, corrected for as many comparisons as the
    column has by Holm (1979). A row without reference on its clients has neither.

    Args:
        table: Of a comparison of ``summaries``.
        of: Gives the accuracies of a run, by its place among ``summaries``.
        reference: What to hold the rows against.

    """
    against = [reference_of(line, table, summaries, reference) for line in table.lines]
    if not any(against):
        return table
    gains: list[Cell] = []
    tests: list[float | None] = []
    for line, other in zip(table.lines, against, strict=True):
        if other is None or other is line:
            gains.append(Cell(None, None))
            tests.append(None)
            continue
        by_seed = [
            difference(of(place), line.label, of(place_of_other), other.label)
            for place, place_of_other in pairs(line, other, summaries)
        ]
        gains.append(cell_of([float(np.mean([*d.values()])) for d in by_seed if d]))
        tests.append(p_value(np.array([*over_seeds(by_seed).values()])))
    adjusted = [Cell(p, None) for p in holm(tests)]
    return table.with_column(reference.gain, gains).with_column(reference.p, adjusted)


def reference_of(
    line: Line, table: Table, summaries: Sequence[Summary], reference: Reference
) -> Line | None:
    """Return the row that a row is held against: on the same clients, and the only such one.

    Of several it is the one with the same settings.
    """
    wanted = {(summaries[place]["seed"], summaries[place]["manifest"]) for place in line.runs}
    found = []
    for other in table.lines:
        strategy = summaries[other.runs[0]]["strategy"]
        of_strategy = not reference.strategy or strategy == reference.strategy
        has = {(summaries[place]["seed"], summaries[place]["manifest"]) for place in other.runs}
        if of_strategy and other.label == reference.label and wanted <= has:
            found.append(other)
    if len(found) > 1:
        found = [other for other in found if other.settings == line.settings]
    return found[0] if len(found) == 1 else None


def pairs(line: Line, other: Line, summaries: Sequence[Summary]) -> list[tuple[int, int]]:
    """Return the places of the runs of two rows that have the same seed."""
    by_seed = {summaries[place]["seed"]: place for place in other.runs}
    return [(place, by_seed[summaries[place]["seed"]]) for place in line.runs]


def difference(one: Accuracies, label: str, other: Accuracies, of_other: str) -> dict[int, float]:
    """Return what a label is over another one, for each seen client that has both, in [-1, 1]."""
    values = by_client(other, of_other)
    return {c: a - values[c] for c, a in by_client(one, label).items() if c in values}


def by_client(accuracies: Accuracies, label: str) -> dict[int, float]:
    """Return the accuracy of each seen client that has the label, in [0, 1]."""
    column = accuracies.by_label.get(label)
    if column is None:
        return {}
    used = accuracies.seen & ~np.isnan(column)
    return dict(zip(accuracies.client[used].tolist(), column[used].tolist(), strict=True))


def over_seeds(by_seed: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """Return each client's mean over the seeds in which it has a value, ascending by client.

    Where clients are the same people whatever the seed, seeds do not make more of them.
    """
    clients = sorted({client for values in by_seed for client in values})
    return {c: float(np.mean([values[c] for values in by_seed if c in values])) for c in clients}


def p_value(differences: NDArray[np.float64]) -> float | None:
    """Return Wilcoxon's p-value, two-sided; 1 where no client differs, None without clients."""
    from scipy.stats import wilcoxon

    if not len(differences):
        return None
    # A difference of rounding is none. Equal ones, which differ by rounding, must tie.
    differing = np.round(differences[np.abs(differences) > TOLERANCE], 9)
    if not len(differing):
        return 1.0
    if len(differing) <= FEW:
        return _exact(differing)
    return float(wilcoxon(differing).pvalue)


def _exact(differing: NDArray[np.float64]) -> float:
    """Return the share of all signs [2^n] whose rank sum is as far from its middle as this one.

    scipy counts the same where ranks tie, one pattern of signs after another, which takes seconds.
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.abs(differing))
    signs = np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks)) & 1
    far = np.abs(signs @ ranks - ranks.sum() / 2)  # ranks are halves: these sums are exact
    return float(np.mean(far >= abs(ranks[differing > 0].sum() - ranks.sum() / 2)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for as many comparisons as there are (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on; none is below the one before
    it, and none above 1.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, i) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * p))
        adjusted[i] = least
    return adjusted
