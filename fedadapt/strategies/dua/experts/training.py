"""Train one expert after another on the server's labelled images: the first phase of DUA.

De Lange et al. 2020, section 3.1. Each task starts from the best model of the task before
(weight-transfer) with a fresh head. Methods differ in the regulariser that keeps it close.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from fedadapt.datasets.benchmark import Scaling
from fedadapt.datasets.task_incremental.benchmark import Task
from fedadapt.errors import InputError
from fedadapt.strategies.dua.experts.data import (
    ImageScaling,
    body_of,
    check,
    cohort_of,
    digest,
    joined,
)
from fedadapt.strategies.dua.experts.expert import Expert, TaskHead, head_for, slices, task_model
from fedadapt.strategies.dua.experts.importance import expert_importances
from fedadapt.strategies.dua.experts.objectives import plan
from fedadapt.strategies.dua.experts.settings import METHODS, ExpertTraining
from fedadapt.strategies.dua.experts.store import ExpertStore, Metadata, key_of, load_experts
from fedadapt.strategies.dua.experts.train_task import Epoch, fresh_head, learn

__all__ = [
    "METHODS",
    "Epoch",
    "Expert",
    "ExpertTraining",
    "TaskHead",
    "expert_importances",
    "head_for",
    "load_experts",
    "slices",
    "task_model",
    "train_experts",
]


def train_experts(
    network: nn.Module,
    tasks: Sequence[Task],
    training: ExpertTraining,
    *,
    scaling: ImageScaling,
    seed: int,
    compute: str | torch.device = "cpu",
    previous: Sequence[Expert] = (),
    folder: Path | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> list[Expert]:
    """Train an expert for each of ``tasks``, in this order; it depends on no later task.

    Args:
        network: Its body is the start of the first task; its head gives the number of features.
        scaling: Stored images -> network input.
        seed: Determines fresh heads, the order of the images and augmentation.
        previous: The experts of earlier tasks; the images of those are not needed.
        folder: Every expert is saved there when it is trained, and loaded if it is there already.

    Returns:
        ``previous`` and an expert for each task, on the CPU; one for all with joint training.

    Raises:
        InputError: ``tasks`` or the folder cannot be used; joint training with ``previous``.
        DivergedError: A model became non-finite.

    """
    check(tasks, [expert.name for expert in previous])
    if training.method == "joint" and previous:
        raise InputError(
            "experts: joint training learns all tasks at once; give all of them and no previous"
        )
    lessons: list[tuple[Task, tuple[TaskHead, ...]]] = [
        (task, (TaskHead(task.name, len(task.classes)),)) for task in tasks
    ]
    if training.method == "joint":
        lessons = [joined(tasks)]
    store = ExpertStore(folder) if folder is not None else None
    experts = list(previous)
    for number, (task, heads) in enumerate(lessons, start=len(experts) + 1):
        last = experts[-1] if experts else None
        metadata = facts_of(network, task, heads, training, scaling, seed, number, last)
        expert = store.load(number, metadata) if store else None
        if expert is None:
            cohort = cohort_of(network, task, number, scaling=scaling, seed=seed, compute=compute)
            fresh = fresh_head(network, len(task.classes), seed, number)
            wanted = plan(training, number, heads, fresh, last)
            expert = learn(network, cohort, task, wanted, training, last, progress)
            expert = expert._replace(key=key_of(metadata))
            if store:
                store.save(number, expert, metadata)
        experts.append(expert)
    return experts


def facts_of(
    network: nn.Module,
    task: Task,
    heads: tuple[TaskHead, ...],
    training: ExpertTraining,
    scaling: ImageScaling,
    seed: int,
    number: int,
    last: Expert | None,
) -> Metadata:
    """Return everything that determines an expert, except the machine."""
    body = body_of(network)
    parts = (task.train, task.validation)
    return {
        "number": number,
        "settings": training.to_mapping(),
        "seed": seed,
        "network": type(network).__name__,
        "shapes": {n: list(t.shape) for n, t in body.items()},
        "scaling": asdict(scaling) if isinstance(scaling, Scaling) else _name(scaling),
        "task": task.name,
        "classes": list(task.classes),
        "heads": [list(each) for each in heads],
        "images": [len(part) for part in parts],
        "data": digest(*(t for part in parts for t in (part.inputs, part.labels))),
        "after": last.key if last else digest(*body.values()),
    }


def _name(function: Callable[..., object]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
