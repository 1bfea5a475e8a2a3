"""What enters the head on a client's images, with the network in evaluation mode."""

from typing import NamedTuple

import torch
from torch import Tensor

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.weights import Weights, chosen


class Features(NamedTuple):
    """Of one client's images, in the order in which a schedule goes through them."""

    values: Tensor  # [N, F]
    labels: Tensor  # [N], int64


def features_of(cohort: Cohort, weights: Weights, schedule: Schedule) -> list[Features]:
    """Each client's features under its row of ``weights``, [D, ...], without gradients.

    Raises:
        InputError: The network has no head.

    """
    by_client: list[list[Features]] = [[] for _ in range(len(cohort))]
    for groups in cohort.steps(schedule):
        for members, batch in groups:
            entering = cohort.features(chosen(weights, members), batch.inputs)
            for d, values, labels in zip(members, entering, batch.labels, strict=True):
                by_client[d].append(Features(values, labels))
    return [
        Features(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
        for batches in by_client
    ]
