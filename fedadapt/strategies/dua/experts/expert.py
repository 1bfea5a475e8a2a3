"""Experts, the models that training on a task leaves, and the head that answers a task."""

from collections.abc import Sequence
from typing import NamedTuple

from fedadapt.errors import unknown
from fedadapt.weights import Weights


class TaskHead(NamedTuple):
    """The rows of a head that are the logits of one task."""

    task: str
    num_classes: int


class Expert(NamedTuple):
    """The server's model after one task, at its best epoch on that task's validation images."""

    name: str  # of the task
    body: Weights  # all but the head: parameters and buffers, [...]
    head: Weights  # [logits, ...], the heads concatenated
    heads: tuple[TaskHead, ...]  # in ``head``; more than one with LwF and joint training
    accuracy: float  # on the task's validation images, in [0, 1]
    epochs: int  # trained
    importance: Weights  # EWC, MAS: of the parameters in ``body``, summed over tasks; else {}
    key: str  # a hash of everything that determines this expert

    @property
    def weights(self) -> Weights:
        """The weights of the whole network, with all its heads."""
        return self.body | self.head

    def head_of(self, task: str) -> Weights:
        """Return the rows of ``head`` for ``task`` as views, [classes, ...]."""
        first, last = slices(self.heads)[task]
        return {n: t[first:last] for n, t in self.head.items()}


def slices(heads: Sequence[TaskHead]) -> dict[str, tuple[int, int]]:
    """Return for each task its first logit and the one after its last, in concatenated heads."""
    logits_of: dict[str, tuple[int, int]] = {}
    first = 0
    for task, num_classes in heads:
        logits_of[task] = (first, first + num_classes)
        first += num_classes
    return logits_of


def head_for(experts: Sequence[Expert], task: str, after: int = -1) -> Weights:
    """Return the head that answers ``task`` on the body of ``experts[after]``, [classes, ...].

    It is the head in that expert, if it has one for the task (LwF and joint training, where heads
    are trained further); otherwise the head of the expert that learnt the task.

    Raises:
        InputError: No expert has learnt the task.

    """
    for expert in (experts[after], *experts):
        if task in slices(expert.heads):
            return expert.head_of(task)
    known = [head.task for expert in experts for head in expert.heads]
    raise unknown("experts: task", task, tuple(dict.fromkeys(known)))


def task_model(experts: Sequence[Expert], task: str, after: int = -1) -> Weights:
    """Return the network that answers ``task`` after the tasks up to ``experts[after]``."""
    return experts[after].body | head_for(experts, task, after)
