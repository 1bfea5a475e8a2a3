"""What clients minimise: pure functions from a View of a stacked cohort to one value a client.

A client's value depends on its own row alone, so the gradient of their sum is each one's own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from fedadapt.weights import Weights


class Batch(NamedTuple):
    """One step of data, with a leading client axis."""

    inputs: Tensor  # [D, B, ...], scaled
    labels: Tensor  # [D, B], int64


class View(NamedTuple):
    """All an objective may look at."""

    logits: Tensor  # [D, B, num_classes], of the weights being trained
    params: Weights  # the weights being trained, each [D, ...]: the trainable ones only
    batch: Batch
    memory: Mapping[str, Weights]  # fixed references: "anchor", "importance", "teacher"
    forward: Callable[[Weights, Tensor], Tensor]  # other weights' logits, in eval mode


Objective = Callable[[View], Tensor]  # -> [D]


def cross_entropy(view: View) -> Tensor:
    """Mean over the batch, nats."""
    logits, labels = view.logits, view.batch.labels
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return each.view(labels.shape).mean(1)


@dataclass(frozen=True)
class Proximal:
    """Task loss + (mu/2) ||w - w_anchor||^2. FedProx (Li et al. 2020, eq. 2)."""

    mu: float
    task: Objective = cross_entropy

    def __call__(self, view: View) -> Tensor:
        return self.task(view) + 0.5 * self.mu * _pull(view)


@dataclass(frozen=True)
class L2Transfer:
    """Task loss + lam ||w - w_anchor||^2 (no 1/2). L2-transfer of IMM (Lee et al. 2017, sec. 3.2).

    Only names in ``memory["anchor"]`` are held: leave the head out of it and the head is free.
    """

    lam: float
    task: Objective = cross_entropy

    def __call__(self, view: View) -> Tensor:
        return self.task(view) + self.lam * _pull(view)


@dataclass(frozen=True)
class Ewc:
    """Task loss + (lam/2) sum_i F_i (w_i - w_anchor_i)^2. Kirkpatrick et al. 2017, eq. 3."""

    lam: float
    task: Objective = cross_entropy

    def __call__(self, view: View) -> Tensor:
        return self.task(view) + 0.5 * self.lam * _pull(view, view.memory["importance"])


@dataclass(frozen=True)
class Mas:
    """Task loss + lam sum_i Omega_i (w_i - w_anchor_i)^2 (no 1/2). Aljundi et al. 2018, eq. 4."""

    lam: float
    task: Objective = cross_entropy

    def __call__(self, view: View) -> Tensor:
        return self.task(view) + self.lam * _pull(view, view.memory["importance"])


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
        teacher = view.forward(view.memory["teacher"], view.batch.inputs)
        log_p = F.log_softmax(view.logits / self.temperature, dim=-1)
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
        return self.task(view._replace(logits=view.logits[..., self.first : self.last]))


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
        teacher = view.forward(view.memory["teacher"], view.batch.inputs)
        old = view.logits.new_zeros(len(view.logits))
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
