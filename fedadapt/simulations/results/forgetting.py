"""What a model is worth on each task while tasks are learnt one after another.

A[k, t] is the accuracy on task t once k tasks are learnt. Forgetting of task t is A[t, t] minus
A[T, t]; below zero, later tasks have helped. De Lange et al. 2020 (DUA) report its mean over all T
tasks, the last of which cannot be forgotten; usual is the mean over the T - 1 before.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedadapt.records import Evaluation, TaskForgetting
from fedadapt.simulations.results.accuracies import order_labels


@dataclass(frozen=True, eq=False)
class TaskScores:
    """Of one label, such as ``personal+adabn``; arrays hold NaN where nothing was measured."""

    users: tuple[tuple[int, str], ...]  # number and kind: [D]
    matrix: NDArray[np.float64]  # A by user: [D, T, T], rows are times, in [0, 1]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Mean over tasks at the end, by user: [D]."""
        return self.matrix[:, -1].mean(1)

    @property
    def when_new(self) -> NDArray[np.float64]:
        """Of each task just after it was learnt, by user: [D, T]."""
        return np.diagonal(self.matrix, axis1=1, axis2=2)

    @property
    def forgotten(self) -> NDArray[np.float64]:
        """What was forgotten of each task, by user: [D, T]."""
        return self.when_new - self.matrix[:, -1]

    def metadata(self) -> dict[str, object]:
        """Means over users; JSON, None for what was not measured."""
        tasks = self.matrix.shape[1]
        forgotten = float(self.forgotten.sum(1).mean())
        mean = self.matrix.mean(0)
        return {
            "accuracy": float(self.accuracy.mean()),
            "forgetting": forgotten / (tasks - 1) if tasks > 1 else 0.0,
            "forgetting_over_all": forgotten / tasks,
            "matrix": [[None if np.isnan(v) else float(v) for v in row] for row in mean],
        }


def task_scores(
    evaluations: Iterable[Evaluation], adaptations: Sequence[str] = ()
) -> dict[str, TaskScores]:
    """By label; users that were not measured on every task at the end are left out."""
    rows = [r for r in evaluations if r.split == "test" and r.epoch == 0 and r.round > 0]
    tasks = max((r.round for r in rows), default=0)
    kinds = {r.client: r.kind for r in rows}
    clients = sorted(kinds)
    row_of = {client: d for d, client in enumerate(clients)}
    scores = {}
    for label in order_labels((r.label for r in rows), adaptations):
        matrix = np.full((len(clients), tasks, tasks), np.nan)
        for r in rows:
            if r.label == label:
                matrix[row_of[r.client], r.round - 1, r.task] = r.accuracy
        whole = ~np.isnan(matrix[:, -1]).any(1)
        if whole.any():
            users = [(d, kinds[d]) for d, is_whole in zip(clients, whole, strict=True) if is_whole]
            scores[label] = TaskScores(tuple(users), matrix[whole])
    return scores


def forgetting_rows(scores: Mapping[str, TaskScores]) -> Iterator[TaskForgetting]:
    """Every user and task of every label, in that order."""
    for label, of_label in scores.items():
        model, _, adaptation = label.partition("+")
        numbers = np.stack([of_label.when_new, of_label.matrix[:, -1], of_label.forgotten], -1)
        for (client, kind), by_task in zip(of_label.users, numbers.tolist(), strict=True):
            for task, three in enumerate(by_task):
                yield TaskForgetting(client, kind, model, adaptation or "none", task, *three)
