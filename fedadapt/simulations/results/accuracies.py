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
    """How good each model was on each client in one round; arrays [D] in ascending client order."""

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
        """The label for pictures: the last one, or None where there is nothing beside the base.

        A fixed rule, for choosing the best one would be a choice made on the test. Training alone
        is what all others are held against, so it is never this one.
        """
        others = [label for label in self.labels if label not in ("base", LOCAL)]
        return others[-1] if others and "base" in self.by_label else None

    def gain(self, label: str, over: str = "base") -> NDArray[np.float64]:
        """Accuracy minus that of ``over`` on the same client, [D]; NaN where either is missing."""
        missing = np.full(len(self), np.nan)
        return self.by_label.get(label, missing) - self.by_label.get(over, missing)

    def where(self, chosen: NDArray[np.bool_]) -> "Accuracies":
        """Some of the clients; labels that none of them has are dropped."""
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
    """Training alone first, then the base, then personal models.

    A bare model comes before its adaptations, and those as they were asked for.
    """

    def rank(label: str) -> tuple[bool, bool, str, bool, int, str]:
        model, _, adaptation = label.partition("+")
        asked = adaptations.index(adaptation) if adaptation in adaptations else len(adaptations)
        return model != LOCAL, model != "base", model, adaptation != "", asked, adaptation

    return sorted(set(labels), key=rank)


def last_accuracies(
    evaluations: Iterable[Evaluation], adaptations: Sequence[str] = (), split: str = "test"
) -> Accuracies:
    """The accuracies of the last evaluated round on one test set; the rows' order does not matter.

    Of several tasks it is the mean over tasks.

    Raises:
        InputError: A client has the same label twice in that round.

    """
    last, columns = 0, _Columns()
    for row in evaluations:
        if row.split == split and row.epoch == 0 and row.round >= last:
            if row.round > last:
                last, columns = row.round, _Columns()
            columns.add(row)
    return columns.folded(last, adaptations)


class _Columns:
    """Rows of one round, column by column: some fifty bytes a row, whatever words are in it."""

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
        """A column a label, a row a client; of several tasks the mean."""
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
