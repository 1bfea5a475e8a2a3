"""Metrics in which every class counts once, summed up over clients."""

import math
from collections import defaultdict
from collections.abc import Iterable

from fedadapt.records import Evaluation

METRICS = ("balanced_accuracy", "f1", "auc")


def by_class(evaluations: Iterable[Evaluation], round: int) -> dict[str, dict[str, float | None]]:
    """Return the mean of each metric over seen clients on their own tests in a round, by label.

    A client that has none, since its test is of one class, say, is left out; None if all are.
    """
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in evaluations:
        if row.split == "test" and row.round == round and row.epoch == 0 and row.seen:
            for name in METRICS:
                values[row.label][name].append(getattr(row, name))
    return {
        label: {name: _mean(found) for name, found in of_label.items()}
        for label, of_label in values.items()
    }


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else None
