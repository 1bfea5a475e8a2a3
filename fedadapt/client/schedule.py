"""Which images a client goes through, in which order and in which portions."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from fedadapt.client.augmentation import Augmentation
from fedadapt.errors import InputError

Part = Literal["train", "adapt"]


class Schedule(NamedTuple):
    """Which images a client goes through, in which portions, how often."""

    batch_size: int
    epochs: int = 1
    part: Part = "train"
    purpose: str = "train"  # names the random stream: equal purposes draw equal orders
    steps: int | None = None  # exactly so many batches of each client, instead of ``epochs``
    augmentation: Augmentation | None = None  # of the images that are gone through

    def num_batches(self, size: int) -> int:
        """How many batches a client of ``size`` images goes through."""
        return len(_cuts(size, self))


def order(
    sizes: Sequence[int], schedule: Schedule, generators: Iterable[np.random.Generator]
) -> tuple[np.ndarray, np.ndarray]:
    """Client by client its images, shuffled epoch after epoch, and where batches begin and end.

    Images are numbered through all clients. Begins and ends, [steps, 2, D], are places in their
    order, and equal where a client is done.

    Args:
        sizes: How many images each client has.
        generators: One a client, in the order of ``sizes``.

    """
    if not all(sizes):
        raise ValueError(f"no {schedule.part} images")
    if schedule.steps is not None and schedule.steps < 1:
        raise InputError(f"schedule: steps {schedule.steps}; at least 1, or None for epochs")
    cuts = {size: _cuts(size, schedule) for size in set(sizes)}
    edges = np.zeros((max(map(len, cuts.values())), 2, len(sizes)), dtype=np.int64)
    rows, images, place = [], 0, 0
    for d, (size, generator) in enumerate(zip(sizes, generators, strict=True)):
        epochs = -(-int(cuts[size][-1, 1]) // size)
        rows += [images + generator.permutation(size) for _ in range(epochs)]
        edges[: len(cuts[size]), :, d] = place + cuts[size]
        images, place = images + size, place + size * epochs
    return np.concatenate(rows), edges


def _cuts(size: int, schedule: Schedule) -> np.ndarray:
    """Where batches begin and end, for a client of ``size`` images: [steps, 2].

    A last batch of one image, which batch norm cannot take statistics of, joins the one before.
    """
    ends = list(range(schedule.batch_size, size, schedule.batch_size))
    if ends and ends[-1] == size - 1 and schedule.batch_size > 1:
        ends.pop()
    epoch = np.stack([[0, *ends], [*ends, size]], axis=1)
    epochs = schedule.epochs if schedule.steps is None else -(-schedule.steps // len(epoch))
    cuts = np.concatenate([epoch + size * number for number in range(epochs)])
    return cuts[: schedule.steps]
