"""Accuracy on each task while tasks are learnt one after another, and forgetting.

A[k, t] is the accuracy on task t once k tasks are learnt. Forgetting of task t is A[t, t] minus
A[T, t]; it is negative where later tasks have helped. De Lange et al. 2020 (DUA) report its mean
over all T tasks, although the last one cannot be forgotten. Usually the mean is over the T - 1
others.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedadapt.records import Evaluation, TaskForgetting
from fedadapt.simulations.results.accuracies import order_labels


@dataclass(frozen=True, eq=False)
class TaskScores:
    """The accuracies of one label, such as ``personal+adabn``; NaN where nothing was measured."""

    users: tuple[tuple[int, str], ...]  # number and kind: [D]
    matrix: NDArray[np.float64]  # A by user: [D, T, T], rows are times, in [0, 1]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """The mean accuracy over tasks after the last task, for each user: [D], in [0, 1]."""
        return self.matrix[:, -1].mean(1)

    @property
    def when_new(self) -> NDArray[np.float64]:
        """The accuracy on each task just after it was learnt, for each user: [D, T], in [0, 1]."""
        return np.diagonal(self.matrix, axis1=1, axis2=2)

    @property
    def forgotten(self) -> NDArray[np.float64]:
        """The forgetting of each task, for each user: [D, T], in [-1, 1]."""
        return self.when_new - self.matrix[:, -1]

    def metadata(self) -> dict[str, object]:
        """Return means over users as JSON; None stands for what was not measured."""
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
    """Return the scores of each label.

    Users that were not measured on every task after the last one are left out.
    """
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
    """Yield a row for each label, user and task, in that order."""
    for label, of_label in scores.items():
        model, _, adaptation = label.partition("+")
        numbers = np.stack([of_label.when_new, of_label.matrix[:, -1], of_label.forgotten], -1)
        for (client, kind), by_task in zip(of_label.users, numbers.tolist(), strict=True):
            for task, three in enumerate(by_task):
                yield TaskForgetting(client, kind, model, adaptation or "none", task, *three)
