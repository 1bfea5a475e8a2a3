"""Rows of evaluations, turned into one accuracy for each device and label."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedadapt.errors import InputError
from fedadapt.records import Evaluation

TOLERANCE = 1e-6  # an image more or less is 1 / num_examples; anything below this is arithmetic


@dataclass(frozen=True, eq=False)
class Accuracies:
    """How good each model was on each device in one round; arrays [D] in ascending device order."""

    round: int  # 0 where nothing was evaluated
    device: NDArray[np.int64]
    kind: tuple[str, ...]
    seen: NDArray[np.bool_]
    num_examples: NDArray[np.int64]
    by_label: dict[str, NDArray[np.float64]]  # in [0, 1]; NaN where a device has no such model

    def __len__(self) -> int:
        return len(self.device)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.by_label)

    @property
    def final(self) -> str | None:
        """The label for pictures: the last one, or None where there is nothing beside the base.

        A fixed rule, for choosing the best one would be a choice made on the test.
        """
        others = [label for label in self.labels if label != "base"]
        return others[-1] if others and "base" in self.by_label else None

    def gain(self, label: str) -> NDArray[np.float64]:
        """Accuracy minus the base's on the same device, [D]; NaN where either is missing."""
        missing = np.full(len(self), np.nan)
        return self.by_label.get(label, missing) - self.by_label.get("base", missing)

    def where(self, chosen: NDArray[np.bool_]) -> "Accuracies":
        """Some of the devices; labels that none of them has are dropped."""
        columns = {label: values[chosen] for label, values in self.by_label.items()}
        return Accuracies(
            self.round,
            self.device[chosen],
            tuple(k for k, keep in zip(self.kind, chosen, strict=True) if keep),
            self.seen[chosen],
            self.num_examples[chosen],
            {label: values for label, values in columns.items() if not np.isnan(values).all()},
        )


def order_labels(labels: Iterable[str], adaptations: Sequence[str] = ()) -> list[str]:
    """Base before personal, the bare model before its adaptations, those as they were asked for."""

    def place(label: str) -> tuple[bool, str, bool, int, str]:
        model, _, adaptation = label.partition("+")
        asked = adaptations.index(adaptation) if adaptation in adaptations else len(adaptations)
        return model != "base", model, adaptation != "", asked, adaptation

    return sorted(set(labels), key=place)


def last_accuracies(
    evaluations: Iterable[Evaluation], adaptations: Sequence[str] = (), split: str = "test"
) -> Accuracies:
    """The accuracies of the last evaluated round on one test set; the rows' order does not matter.

    Of several tasks it is the mean over tasks.

    Raises:
        InputError: A device has the same label twice in that round.

    """
    rows = [row for row in evaluations if row.split == split and row.epoch == 0]
    last = max((row.round for row in rows), default=0)
    rows = sorted((row for row in rows if row.round == last), key=lambda row: row.device)
    devices = sorted({row.device for row in rows})
    place = {device: d for d, device in enumerate(devices)}
    of_device = {row.device: row for row in rows}
    by_label = {
        label: np.full(len(devices), np.nan)
        for label in order_labels((row.label for row in rows), adaptations)
    }
    tasks: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
    for row in rows:
        of_task = tasks[row.label, row.device]
        if row.task in of_task:
            raise InputError(
                f"evaluations: device {row.device} has {row.label!r} twice in round {last}; "
                "a row of a round, device, label, task and split must be the only one"
            )
        of_task[row.task] = row.accuracy
    for (label, device), of_task in tasks.items():
        by_label[label][place[device]] = sum(of_task.values()) / len(of_task)
    return Accuracies(
        last,
        np.array(devices, dtype=np.int64),
        tuple(of_device[device].kind for device in devices),
        np.array([of_device[device].seen for device in devices], dtype=bool),
        np.array([of_device[device].num_examples for device in devices], dtype=np.int64),
        by_label,
    )
