"""What clients minimise: pure functions from a View of a stacked cohort to one value a client.

A client's value depends on its own row alone, so the gradient of their sum is each one's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fedadapt.errors import InputError
from fedadapt.models.mode import Mode
from fedadapt.weights import Weights


class Batch(NamedTuple):
    """One step of data, with a leading client axis."""

    inputs: Tensor  # [D, B, ...], scaled
    labels: Tensor  # [D, B], int64

    def cut(self, parts: int, at_least: int = 2) -> list["Batch"]:
        """Cut the batch into ``parts`` of nearly equal size, each of ``at_least`` images.

        Batch norm cannot take the statistics of a single image. Where there are too few images for
        as many parts, the parts repeat.
        """
        different = max(1, min(parts, self.labels.shape[1] // at_least))
        inputs = self.inputs.tensor_split(different, 1)
        labels = self.labels.tensor_split(different, 1)
        return [Batch(inputs[i % different], labels[i % different]) for i in range(parts)]


class Outputs(NamedTuple):
    """What one forward pass of every client's network gives."""

    logits: Tensor  # [D, B, num_classes]
    entering: Tensor | None  # [D, B, ...]: what entered the head; None: the network has no head

    @property
    def features(self) -> Tensor:
        """What entered the head, in the arithmetic of the logits: [D, B, ...].

        Raises:
            InputError: The network has no head, or its forward pass does not call it.

        """
        if self.entering is None:
            raise InputError(
                "features: they are what enters the head, a layer called 'head' or the last "
                "nn.Linear, and the network calls no such layer"
            )
        return self.entering.to(self.logits.dtype)


class Apply(Protocol):
    """The logits of other weights on the batch: see ``View.apply``."""

    def __call__(self, weights: Weights, mode: Mode | None = None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class View:
    """All that an objective may look at."""

    params: Weights  # what is being trained, each [D, ...]: network tensors and extras
    batch: Batch
    memory: Mapping[str, Weights]  # fixed references: "anchor", "importance", "teacher"
    outputs: Callable[[], Outputs]
    """The network's forward pass on the batch. It is computed when it is first asked for, once."""

    apply: Apply
    """``apply(weights, mode=None)``: logits [D, B, num_classes] of a second, differentiable pass.

    ``weights`` take the place of the network's tensors of the same names. In the loop's mode, which
    None stands for, batch norm moves the network's running statistics once more. With a ``mode`` of
    its own the pass is a look only: it works on copies of the buffers and moves nothing.
    """

    forward: Callable[[Weights, Tensor], Tensor]
    """Other weights' logits on some inputs, in evaluation mode and without gradients."""

    @property
    def logits(self) -> Tensor:
        """Of the network being trained: [D, B, num_classes]."""
        return self.outputs().logits

    @property
    def features(self) -> Tensor:
        """What enters the head of the network being trained: [D, B, ...]."""
        return self.outputs().features

    def with_logits(self, logits: Tensor) -> "View":
        """The view with ``logits`` in the place of the network's own, for the task it is given."""
        outputs = self.outputs()._replace(logits=logits)
        return replace(self, outputs=lambda: outputs)


Objective = Callable[[View], Tensor]  # -> [D]


OfParams = Callable[[Weights, Mapping[str, Weights]], tuple[Tensor, Weights, float]]
"""(params, memory) -> what it adds to the values [D], and to the gradient: tensors by name, and the
number by which they are to be multiplied."""


class Derivative(NamedTuple):
    """The derivative, by hand, of an objective that reads logits, labels and what is trained."""

    of_logits: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(logits [D, B, C], labels [D, B]) -> values [D], their gradient by the logits [D, B, C]."""

    of_params: tuple[OfParams, ...] = ()


def derivative_of(objective: Objective) -> Derivative | None:
    """Return the derivative that an objective brings with it; None: autograd finds it."""
    return getattr(objective, "derivative", None)


@dataclass(frozen=True)
class CrossEntropy:
    """Mean over the batch, nats."""

    def __call__(self, view: View) -> Tensor:
        logits, labels = view.logits, view.batch.labels
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        return each.view(labels.shape).mean(1)

    @property
    def derivative(self) -> Derivative:
        return Derivative(_cross_entropy_by_logits)


cross_entropy = CrossEntropy()


def _cross_entropy_by_logits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The softmax less 1 at the label, over the number of images."""
    places, count = labels.unsqueeze(2), labels.shape[1]
    # `log_softmax` takes four times as long where there are few classes.
    log_p = logits - logits.logsumexp(2, keepdim=True)
    values = -log_p.gather(2, places).squeeze(2).mean(1)
    slope = log_p.exp_()
    slope.scatter_add_(2, places, slope.new_full((), -1.0).expand(places.shape))
    return values, slope.div_(count)


def entropy(view: View) -> Tensor:
    """Mean entropy of the predictions, nats; no labels. Wang et al. 2021, eq. 1."""
    log_p = view.logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(2).mean(1)


@dataclass(frozen=True)
class InformationMaximisation:
    """Mean entropy of the predictions - diversity x entropy of the mean prediction; no labels.

    Liang et al. 2020, with 1e-5 in each logarithm, as in the released code.
    """

    diversity: float = 1.0

    def __call__(self, view: View) -> Tensor:
        p = view.logits.softmax(-1)
        return _spread(p).mean(1) - self.diversity * _spread(p.mean(1))


def _spread(p: Tensor) -> Tensor:
    return -(p * (p + 1e-5).log()).sum(-1)


@dataclass(frozen=True)
class Proximal:
    """Task loss + (mu/2) ||w - w_anchor||^2. FedProx (Li et al. 2020, eq. 2)."""

    mu: float
    task: Objective = cross_entropy

    def __call__(self, view: View) -> Tensor:
        return self.task(view) + 0.5 * self.mu * _pull(view)

    @property
    def derivative(self) -> Derivative | None:
        return _pulled(self.task, 0.5 * self.mu)


@dataclass(frozen=True)
class L2Transfer:
    """Task loss + lam ||w - w_anchor||^2 (no 1/2). L2-transfer of IMM (Lee et al. 2017, sec. 3.2).

    Only names in ``memory["anchor"]`` are held: leave the head out of it and the head is free.
    """

    lam: float
    task: Objective = cross_entropy

    def __call__(self, view: View) -> Tensor:
        return self.task(view) + self.lam * _pull(view)

    @property
    def derivative(self) -> Derivative | None:
        return _pulled(self.task, self.lam)


@dataclass(frozen=True)
class Ewc:
    """Task loss + (lam/2) sum_i F_i (w_i - w_anchor_i)^2. Kirkpatrick et al. 2017, eq. 3."""

    lam: float
    task: Objective = cross_entropy

    def __call__(self, view: View) -> Tensor:
        return self.task(view) + 0.5 * self.lam * _pull(view, view.memory["importance"])

    @property
    def derivative(self) -> Derivative | None:
        return _pulled(self.task, 0.5 * self.lam, weighted=True)


@dataclass(frozen=True)
class Mas:
    """Task loss + lam sum_i Omega_i (w_i - w_anchor_i)^2 (no 1/2). Aljundi et al. 2018, eq. 4."""

    lam: float
    task: Objective = cross_entropy

    def __call__(self, view: View) -> Tensor:
        return self.task(view) + self.lam * _pull(view, view.memory["importance"])

    @property
    def derivative(self) -> Derivative | None:
        return _pulled(self.task, self.lam, weighted=True)


@dataclass(frozen=True)
class Distillation:
    """(1-a) task loss + a T^2 KL(teacher || student), both at temperature T. Hinton et al. 2015.

    The divergence is the mean over batch *and* classes, as in Yu et al. 2020 and in PFA's released
    code; the mean over the batch alone would be as many times stronger as there are classes.
    """

    share: float
    temperature: float
    task: Objective = cross_entropy

    def __call__(self, view: View) -> Tensor:
        log_p = F.log_softmax(view.logits / self.temperature, dim=-1)
        teacher = view.forward(view.memory["teacher"], view.batch.inputs)
        log_q = F.log_softmax(teacher / self.temperature, dim=-1)
        gap = (log_q.exp() * (log_q - log_p)).mean(dim=(1, 2)) * self.temperature**2
        return (1 - self.share) * self.task(view) + self.share * gap


@dataclass(frozen=True)
class OneHead:
    """Task loss of one head, where several stand side by side: of logits ``first`` to ``last``.

    Labels count from 0 inside the head; ``last`` is excluded.
    """

    first: int
    last: int
    task: Objective = cross_entropy

    def __call__(self, view: View) -> Tensor:
        return self.task(view.with_logits(view.logits[..., self.first : self.last]))


@dataclass(frozen=True)
class WithoutForgetting:
    """Task loss + lam sum_heads H(softmax(teacher / T), softmax(student / T)), mean over the batch.

    Learning without forgetting (Li and Hoiem 2017, eq. 2), over the heads of earlier tasks; the
    gradient is not scaled back by T^2. The teacher has those heads and no other. H is the
    cross-entropy: it differs from the divergence by a constant, so it is not 0 at the teacher.
    """

    lam: float
    temperature: float
    heads: tuple[tuple[int, int], ...]  # (first, last) logit of each, last excluded
    task: Objective = cross_entropy

    def __call__(self, view: View) -> Tensor:
        old = view.logits.new_zeros(len(view.logits))
        teacher = view.forward(view.memory["teacher"], view.batch.inputs)
        for first, last in self.heads:
            wanted = F.softmax(teacher[..., first:last] / self.temperature, dim=-1)
            found = F.log_softmax(view.logits[..., first:last] / self.temperature, dim=-1)
            old = old - (wanted * found).sum(2).mean(1)
        return self.task(view) + self.lam * old


def _pull(view: View, importance: Weights | None = None) -> Tensor:
    """sum_i (importance_i) (w_i - w_anchor_i)^2 over the trained names that have an anchor: [D]."""
    anchor, total = view.memory["anchor"], view.logits.new_zeros(len(view.logits))
    for n, w in view.params.items():
        if n in anchor and (importance is None or n in importance):
            square = (w - anchor[n]) ** 2
            weighted = square if importance is None else square * importance[n]
            total = total + weighted.reshape(len(total), -1).sum(1)
    return total


def _pulled(task: Objective, strength: float, weighted: bool = False) -> Derivative | None:
    """The derivative of ``task + strength * _pull``; None where that of the task is not known."""
    of_task = derivative_of(task)
    if of_task is None:
        return None

    def pull(params: Weights, memory: Mapping[str, Weights]) -> tuple[Tensor, Weights, float]:
        anchor, importance = memory["anchor"], memory["importance"] if weighted else None
        squares, slopes = [], {}
        for n, w in params.items():
            if n in anchor and (importance is None or n in importance):
                gap = w - anchor[n]
                slopes[n] = gap if importance is None else gap * importance[n]
                # As einsum, a product of rows takes five times as long.
                squares.append(torch.linalg.vecdot(gap.flatten(1), slopes[n].flatten(1)))
        count = len(next(iter(params.values())))
        total = sum(squares, next(iter(params.values())).new_zeros(count))
        return total * strength, slopes, 2 * strength

    return of_task._replace(of_params=(*of_task.of_params, pull))
