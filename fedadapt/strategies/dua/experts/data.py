"""Make a cohort of one client from the images of a task, for ``fit`` and ``evaluate``."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.datasets.task_incremental.benchmark import Task
from fedadapt.errors import InputError
from fedadapt.models.meta import on_meta
from fedadapt.selectors import head
from fedadapt.strategies.dua.experts.expert import TaskHead
from fedadapt.weights import Weights

ImageScaling = Callable[[Tensor], Tensor]


def cohort_of(
    network: nn.Module,
    task: Task,
    number: int,
    *,
    scaling: ImageScaling,
    seed: int,
    compute: str | torch.device,
) -> Cohort:
    """Return the server as the client ``number``; validation images are its ``adapt`` set."""
    train, validation = (_examples_on(part, compute) for part in (task.train, task.validation))
    return Cohort(
        model=on_meta(network, compute),
        clients=(number,),
        splits=(Split(train, validation, validation),),
        scaling=scaling,
        seed=seed,
    )


def joined(tasks: Sequence[Task]) -> tuple[Task, tuple[TaskHead, ...]]:
    """Join all tasks into one with all classes; also return the head of each task."""
    heads = tuple(TaskHead(task.name, len(task.classes)) for task in tasks)
    firsts = list(accumulate((head.num_classes for head in heads), initial=0))[:-1]
    classes = tuple(name for task in tasks for name in task.classes)
    train = together([task.train for task in tasks], firsts)
    validation = together([task.validation for task in tasks], firsts)
    return Task("joint", classes, train, validation), heads


def together(parts: Sequence[Examples], firsts: Sequence[int] | None = None) -> Examples:
    """Concatenate sets of images; label 0 of each set becomes its number in ``firsts``."""
    labels = [p.labels + first for p, first in zip(parts, firsts or [0] * len(parts), strict=True)]
    return Examples(torch.cat([part.inputs for part in parts]), torch.cat(labels))


def check(tasks: Sequence[Task], known: Sequence[str] = ()) -> None:
    """Refuse tasks that cannot be learnt.

    Raises:
        InputError: No task, two with the same name, no images, labels without a class.

    """
    names = [*known, *(task.name for task in tasks)]
    if not names:
        raise InputError("experts: 0 tasks; there must be at least one")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"experts: two tasks are called {name!r}; each needs its own name")
    for task in tasks:
        for part, examples in (("train", task.train), ("validation", task.validation)):
            where = f"experts: task {task.name!r}: {part}"
            if not len(examples):
                raise InputError(f"{where}: 0 images; there must be at least one")
            low, high = int(examples.labels.min()), int(examples.labels.max())
            if low < 0 or high >= len(task.classes):
                raise InputError(
                    f"{where}: labels {low} to {high}; {len(task.classes)} classes have labels 0 "
                    f"to {len(task.classes) - 1}"
                )


def digest(*tensors: Tensor) -> str:
    """Return a hash of types, shapes and contents."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        hashed.update(f"{plain.dtype} {tuple(plain.shape)}\n".encode())
        hashed.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def body_of(network: nn.Module) -> Weights:
    """Return all weights but the head's."""
    out = head(network)
    return {n: t.detach() for n, t in network.state_dict().items() if n not in out}


def placed(weights: Mapping[str, Tensor], compute: str | torch.device) -> Weights:
    """Move weights to a device, contiguous, so that loaded and new weights compute alike."""
    return {n: t.detach().to(compute).contiguous() for n, t in weights.items()}


def _examples_on(examples: Examples, compute: str | torch.device) -> Examples:
    return Examples(examples.inputs.to(compute), examples.labels.to(compute))
