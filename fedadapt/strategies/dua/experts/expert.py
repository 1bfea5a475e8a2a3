"""What training leaves of a task: an expert. And which head answers for a task."""

from collections.abc import Sequence
from typing import NamedTuple

from fedadapt.errors import unknown
from fedadapt.weights import Weights


class TaskHead(NamedTuple):
    """Some rows of a head: the logits of one task."""

    task: str
    num_classes: int


class Expert(NamedTuple):
    """The server's model after one task, at its best epoch on that task's validation images."""

    name: str  # of the task
    body: Weights  # all but the head: parameters and buffers, [...]
    head: Weights  # [logits, ...], the heads below each other
    heads: tuple[TaskHead, ...]  # those in ``head``; more than one with LwF and joint training
    accuracy: float  # on the task's validation images, in [0, 1]
    epochs: int  # gone through
    importance: Weights  # EWC, MAS: of the parameters in ``body``, summed over tasks; else {}
    key: str  # a hash of all that this expert follows from

    @property
    def weights(self) -> Weights:
        """A whole network, with all its heads."""
        return self.body | self.head

    def head_of(self, task: str) -> Weights:
        """The rows of ``head`` that answer for ``task``: [classes, ...], views."""
        first, last = slices(self.heads)[task]
        return {n: t[first:last] for n, t in self.head.items()}


def slices(heads: Sequence[TaskHead]) -> dict[str, tuple[int, int]]:
    """Task -> its first logit and the one after its last, where the heads stand side by side."""
    found: dict[str, tuple[int, int]] = {}
    first = 0
    for task, num_classes in heads:
        found[task] = (first, first + num_classes)
        first += num_classes
    return found


def head_for(experts: Sequence[Expert], task: str, after: int = -1) -> Weights:
    """The head that answers ``task`` on the trunk of ``experts[after]``: [classes, ...].

    Its own where it has one, as in LwF and joint training, where heads go on learning; else the one
    kept with the task's own expert.

    Raises:
        InputError: nobody has learnt the task.

    """
    for expert in (experts[after], *experts):
        if task in slices(expert.heads):
            return expert.head_of(task)
    known = [head.task for expert in experts for head in expert.heads]
    raise unknown("experts: task", task, tuple(dict.fromkeys(known)))


def task_model(experts: Sequence[Expert], task: str, after: int = -1) -> Weights:
    """The network that answers ``task`` once the tasks up to ``experts[after]`` are learnt."""
    return experts[after].body | head_for(experts, task, after)
