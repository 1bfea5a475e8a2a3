"""The same clients with some of their images: a few of each class, or batch after batch."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from fedadapt.client.cohort import Cohort
from fedadapt.client.schedule import Part, Schedule, order
from fedadapt.datasets.benchmark import Examples


def with_few(cohort: Cohort, part: Part, most: int) -> Cohort:
    """Return the clients with at most ``most`` images of each class in ``part``; 0: with all.

    They are drawn by the client's own stream in this round, equal ones for everybody who asks, and
    few are some of those of more.
    """
    if not most:
        return cohort
    chosen = []
    for d, images in enumerate(cohort.part(part)):
        shuffled = cohort.generator(d, "shots").permutation(len(images))
        labels = images.labels.cpu().numpy()[shuffled]
        of_class = [np.flatnonzero(labels == c)[:most] for c in np.unique(labels)]
        chosen.append(np.sort(shuffled[np.concatenate(of_class)]))
    return with_images(cohort, part, range(len(cohort)), chosen)


def batch_by_batch(cohort: Cohort, schedule: Schedule) -> Iterator[tuple[list[int], Cohort]]:
    """Yield the batches of ``cohort.steps``, each as the clients that have one, with its images.

    The first value are the positions of these clients in ``cohort``.
    """
    sizes = [len(images) for images in cohort.part(schedule.part)]
    before = np.cumsum([0, *sizes[:-1]])
    generators = (cohort.generator(d, schedule.purpose) for d in range(len(cohort)))
    rows, edges = order(sizes, schedule, generators)
    for begin, end in edges:
        members = np.flatnonzero(end > begin).tolist()
        chosen = [np.sort(rows[begin[d] : end[d]] - before[d]) for d in members]
        yield members, with_images(cohort, schedule.part, members, chosen)


def with_images(
    cohort: Cohort, part: Part, members: Sequence[int], rows: Sequence[np.ndarray]
) -> Cohort:
    """Return the clients at positions ``members``, each with these rows of its ``part``."""
    splits = []
    for d, own in zip(members, rows, strict=True):
        images: Examples = getattr(cohort.splits[d], part)
        chosen = torch.from_numpy(own).to(images.labels.device)
        some = Examples(images.inputs[chosen], images.labels[chosen])
        splits.append(cohort.splits[d]._replace(**{part: some}))
    return replace(
        cohort,
        clients=tuple(cohort.clients[d] for d in members),
        splits=tuple(splits),
        states=tuple(cohort.states[d] for d in members) if cohort.states else (),
        stacked=cohort.stacked and len(members) > 1,
    )
