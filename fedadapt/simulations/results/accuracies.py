"""Rows of evaluations, turned into one accuracy for each client and label."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedadapt.errors import InputError
from fedadapt.records import LOCAL, Evaluation

Numbers = NDArray[np.int64]
TOLERANCE = 1e-6  # an image more or less is 1 / num_examples; anything below this is arithmetic


@dataclass(frozen=True, eq=False)
class Accuracies:
    """How accurate each model was on each client in one round.

    The clients are in ascending order, and every array has an entry for each: [D].
    """

    round: int  # 0 where nothing was evaluated
    client: NDArray[np.int64]
    kind: tuple[str, ...]
    seen: NDArray[np.bool_]
    num_examples: NDArray[np.int64]
    by_label: dict[str, NDArray[np.float64]]  # in [0, 1]; NaN where a client has no such model

    def __len__(self) -> int:
        return len(self.client)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.by_label)

    @property
    def final(self) -> str | None:
        """The label that pictures show: the last one, or None without a model beside the base.

        The rule is fixed, because choosing the best label would be a choice made on test images.
        Training alone is what all others are compared with, so it is never this label.
        """
        others = [label for label in self.labels if label not in ("base", LOCAL)]
        return others[-1] if others and "base" in self.by_label else None

    def gain(self, label: str, over: str = "base") -> NDArray[np.float64]:
        """Return the accuracy minus that of ``over`` on the same client, [D].

        It is in [-1, 1], and NaN where either accuracy is missing.
        """
        missing = np.full(len(self), np.nan)
        return self.by_label.get(label, missing) - self.by_label.get(over, missing)

    def where(self, chosen: NDArray[np.bool_]) -> "Accuracies":
        """Return the accuracies of the clients where ``chosen`` [D] is true.

        Labels that none of these clients has are dropped.
        """
        columns = {label: values[chosen] for label, values in self.by_label.items()}
        return Accuracies(
            self.round,
            self.client[chosen],
            tuple(k for k, keep in zip(self.kind, chosen, strict=True) if keep),
            self.seen[chosen],
            self.num_examples[chosen],
            {label: values for label, values in columns.items() if not np.isnan(values).all()},
        )


def order_labels(labels: Iterable[str], adaptations: Sequence[str] = ()) -> list[str]:
    """Return the different labels in order: training alone, the base, then other models.

    A model without adaptation comes before its adaptations, which are as in ``adaptations``.
    """

    def rank(label: str) -> tuple[bool, bool, str, bool, int, str]:
        model, _, adaptation = label.partition("+")
        asked = adaptations.index(adaptation) if adaptation in adaptations else len(adaptations)
        return model != LOCAL, model != "base", model, adaptation != "", asked, adaptation

    return sorted(set(labels), key=rank)


def last_accuracies(
    evaluations: Iterable[Evaluation], adaptations: Sequence[str] = (), split: str = "test"
) -> Accuracies:
    """Return the accuracies of the last evaluated round on one test set.

    The order of the rows does not matter. Where there are several tasks, an accuracy is the mean
    over tasks.

    Args:
        evaluations: Rows of a run; those of other rounds and test sets are left out.
        adaptations: The local adaptations in the order in which labels are to appear.
        split: The test set: ``test`` for the clients' own images, ``global`` for those of all.

    Raises:
        InputError: A client has the same label twice in that round.

    """
    last, columns = 0, Columns()
    for row in evaluations:
        if row.split == split and row.epoch == 0 and row.round >= last:
            if row.round > last:
                last, columns = row.round, Columns()
            columns.add(row)
    return columns.folded(last, adaptations)


class Columns:
    """The rows of one round, stored column by column, which takes about fifty bytes a row."""

    def __init__(self) -> None:
        self._words: dict[str, int] = {}  # labels and kinds, each held once
        self._numbers = array("q")
        self._accuracies = array("d")

    def add(self, row: Evaluation) -> None:
        label = self._words.setdefault(row.label, len(self._words))
        kind = self._words.setdefault(row.kind, len(self._words))
        self._numbers.extend((row.client, label, row.task, kind, row.seen, row.num_examples))
        self._accuracies.append(row.accuracy)

    def folded(self, round: int, adaptations: Sequence[str]) -> Accuracies:
        """Return the rows as accuracies: a column for each label, a row for each client.

        Where there are several tasks, an accuracy is the mean over tasks.
        """
        words = tuple(self._words)
        columns = np.array(self._numbers, np.int64).reshape(-1, 6).T
        client, label, task, kind, seen, num_examples = columns
        clients, row_of = np.unique(client, return_inverse=True)
        self._refuse_twice(client, label, task, round)
        last = np.zeros(len(clients), np.int64)  # a row of each client
        last[row_of] = np.arange(len(row_of))
        by_label = {}
        for name in order_labels((words[code] for code in np.unique(label)), adaptations):
            of_label = label == self._words[name]
            sums = np.bincount(row_of[of_label], np.array(self._accuracies)[of_label], len(clients))
            counts = np.bincount(row_of[of_label], minlength=len(clients))
            by_label[name] = np.divide(
                sums, counts, out=np.full(len(clients), np.nan), where=counts > 0
            )
        return Accuracies(
            round,
            clients,
            tuple(words[code] for code in kind[last]),
            seen[last].astype(bool),
            num_examples[last],
            by_label,
        )

    def _refuse_twice(self, client: Numbers, label: Numbers, task: Numbers, round: int) -> None:
        keys, counts = np.unique(np.stack([client, label, task]), axis=1, return_counts=True)
        for number, code, _ in keys[:, counts > 1].T[:1]:
            raise InputError(
                f"evaluations: client {number} has {tuple(self._words)[code]!r} twice in round "
                f"{round}; a row of a round, client, label, task and split must be the only one"
            )
