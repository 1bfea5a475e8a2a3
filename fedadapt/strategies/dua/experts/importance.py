"""How much each parameter of an expert matters on the server's own images."""

from typing import Literal

import torch
from torch import nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.statistics.importance import Granularity, importances
from fedadapt.client.statistics.measures import Kind
from fedadapt.datasets.task_incremental.benchmark import Task
from fedadapt.errors import unknown
from fedadapt.selectors import head
from fedadapt.strategies.dua.experts.data import ImageScaling, cohort_of, placed, together
from fedadapt.strategies.dua.experts.expert import Expert, task_model
from fedadapt.strategies.dua.experts.settings import ExpertTraining
from fedadapt.weights import Weights, repeat


def expert_importances(
    network: nn.Module,
    expert: Expert,
    task: Task,
    *,
    kind: Kind,
    split: Literal["train", "validation", "train+validation"] = "validation",
    granularity: Granularity = "sample",
    batch_size: int = 20,
    floor: float = 0.0,
    scaling: ImageScaling,
    seed: int = 0,
    compute: str | torch.device = "cpu",
) -> Weights:
    """Return Omega of an expert with its own head on the server's images: MAS-IMM and FIM-IMM.

    Args:
        kind: See ``client.statistics.importance``, as for ``granularity`` and ``floor``.
        split: The paper uses ``validation``. Its code uses both: the mean over all images
            with MAS, and the sum of the means of both with a Fisher information.

    Returns:
        Parameters of the body only, [...], non-negative, on the CPU.

    """
    if split not in ("train", "validation", "train+validation"):
        raise unknown("experts: split", split, ("train", "validation", "train+validation"))
    parts = {"train": [task.train], "validation": [task.validation]}.get(
        split, [task.train, task.validation]
    )
    if kind == "mas":
        parts = [together(parts)]
    weights = repeat(placed(task_model([expert], task.name), compute), 1)
    total: Weights = {}
    for part in parts:
        own = task._replace(train=part, validation=part)
        cohort = cohort_of(network, own, 0, scaling=scaling, seed=seed, compute=compute)
        measured = importances(
            cohort,
            weights,
            kind=kind,
            granularity=granularity,
            batch_size=batch_size,
            exclude=head(network),
            floor=floor,
        )
        total = {n: total.get(n, 0) + t[0].cpu() for n, t in measured.items()}
    return total


def accumulated(
    network: nn.Module,
    cohort: Cohort,
    weights: Weights,
    own: slice,
    training: ExpertTraining,
    last: Expert | None,
) -> Weights:
    """Add this task's importances on its training images to those of earlier tasks: EWC and MAS.

    In batches, EWC squares the gradient of a batch's summed loss and divides by the number of
    images, as the released code does: a short last batch counts for less than a full one.
    """
    if training.method not in ("ewc", "mas"):
        return {}
    kind: Kind = "mas" if training.method == "mas" else "fisher"
    names = head(network)
    measured = importances(
        cohort,
        weights,
        kind=kind,
        granularity=training.granularity,
        batch_size=training.batch_size,
        batches="summed" if training.method == "ewc" else "alike",
        part="train",
        exclude=names,
    )
    earlier = last.importance if last else {}
    return {n: earlier.get(n, 0) + t[0].cpu() for n, t in measured.items()}
