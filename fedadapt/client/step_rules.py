"""How a step of local training moves what is trained: step rules, which ask for gradients.

A rule never sees a network. It is given an oracle, which it may ask at any point and as often as it
likes: SGD asks once a batch, Per-FedAvg two or three times, pFedMe K times.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fedadapt.objectives import Batch
from fedadapt.weights import Weights

Oracle = Callable[[Weights, Batch], tuple[Weights, Tensor]]
"""(params, batch) -> gradients of the objective at ``params``, by name, and its value [D].

``params`` are not modified. Each call is a forward pass: batch norm in training mode moves its
running statistics, and dropout draws.
"""


@runtime_checkable
class AddingOracle(Protocol):
    """An oracle that can add the gradient to what is there, without memory for the gradient."""

    def add(
        self, params: Weights, batch: Batch, into: Weights, keep: float, scale: float
    ) -> Tensor: ...


def add_gradient(
    oracle: Oracle,
    params: Weights,
    batch: Batch,
    into: Weights,
    *,
    keep: float = 1.0,
    scale: float = 1.0,
) -> Tensor:
    """Make ``into`` ``keep`` x ``into`` + ``scale`` x the gradient at ``params``, in place.

    ``into`` may be ``params``.

    Returns:
        The objective's values, [D].

    """
    if isinstance(oracle, AddingOracle):
        return oracle.add(params, batch, into, keep, scale)
    grads, loss = oracle(params, batch)
    add_scaled(grads, into, keep, scale)
    return loss


@torch.no_grad()
def add_scaled(grads: Weights, into: Weights, keep: float, scale: float) -> None:
    """Make ``into`` ``keep`` x ``into`` + ``scale`` x ``grads``, in place."""
    tensors, gradients = list(into.values()), [grads[n] for n in into]
    if keep == 1.0:
        torch._foreach_add_(tensors, gradients, alpha=scale)
    elif scale == 1.0 and not tensors[0].is_cuda:  # one pass over memory
        for v, g in zip(tensors, gradients, strict=True):
            torch.add(g, v, alpha=keep, out=v)
    else:  # few calls
        torch._foreach_mul_(tensors, keep)
        torch._foreach_add_(tensors, gradients, alpha=scale)


class StepRule(Protocol):
    """What ``fit`` needs to know of an optimiser. All tensors are stacked, [D, ...].

    A row of what it computes may depend on the same row alone, and not on how many there are.
    """

    def begin(self, params: Weights) -> Weights:
        """The rule's state before the first step, such as velocities; {} for none."""

    def step(self, oracle: Oracle, params: Weights, batch: Batch, state: Weights) -> Tensor:
        """Move ``params`` and ``state`` in place; the batch's loss, [D]."""


@dataclass(frozen=True)
class Sgd:
    """g <- g + weight_decay w;  v <- momentum v + g;  w <- w - learning_rate v.

    ``rates`` gives some names a learning rate of their own. ``clamp`` keeps some names between a
    least and a largest value, after each step. ``undecayed`` names are not drawn to 0 by the weight
    decay. Names in them that are not being trained are passed over, so that one rule serves several
    phases.
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    rates: Mapping[str, float] | None = field(default=None, hash=False)
    clamp: Mapping[str, tuple[float, float]] | None = field(default=None, hash=False)
    undecayed: frozenset[str] = frozenset()

    def begin(self, params: Weights) -> Weights:
        return {n: torch.zeros_like(w) for n, w in params.items()} if self.momentum else {}

    def step(self, oracle: Oracle, params: Weights, batch: Batch, state: Weights) -> Tensor:
        if not params:
            return oracle(params, batch)[1]
        if self.momentum or self.rates or self.undecayed:
            change = {n: state[n] if self.momentum else torch.zeros_like(params[n]) for n in params}
            keep = self.momentum
            if self.weight_decay:
                self._decay(params, change)
                keep = 1.0
            loss = add_gradient(oracle, params, batch, change, keep=keep)
            self._move(params, change)
            return loss
        # w - rate (g + decay w), without memory for g
        rate = self.learning_rate
        keep = 1 - rate * self.weight_decay
        loss = add_gradient(oracle, params, batch, params, keep=keep, scale=-rate)
        self._clamp(params)
        return loss

    @torch.no_grad()
    def _decay(self, params: Weights, change: Weights) -> None:
        """Make the velocity ``change`` what it is before the gradient comes to it."""
        for n, v in change.items():
            v.mul_(self.momentum)
            if n not in self.undecayed:
                v.add_(params[n], alpha=self.weight_decay)

    @torch.no_grad()
    def update(self, params: Weights, grads: Weights, velocity: Weights) -> None:
        """One step: ``params`` and ``velocity`` move in place."""
        change = {n: grads[n] for n in params}
        if self.weight_decay:
            decayed = [n for n in params if n not in self.undecayed]
            change |= {n: grads[n].add(params[n], alpha=self.weight_decay) for n in decayed}
        if self.momentum:
            velocity = {n: velocity[n] for n in params}
            add_scaled(change, velocity, self.momentum, 1.0)
            change = velocity
        self._move(params, change)

    @torch.no_grad()
    def _move(self, params: Weights, change: Weights) -> None:
        if self.rates:
            for name, w in params.items():
                w.add_(change[name], alpha=-self.rates.get(name, self.learning_rate))
        else:
            changes = [change[n] for n in params]
            torch._foreach_add_(list(params.values()), changes, alpha=-self.learning_rate)
        self._clamp(params)

    def _clamp(self, params: Weights) -> None:
        for name, (low, high) in (self.clamp or {}).items():
            if name in params:
                params[name].clamp_(low, high)


@dataclass(frozen=True)
class Adam:
    """Adam as its authors wrote it (Kingma and Ba 2015, algorithm 1).

    g <- g + weight_decay w;  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;
    w <- w - learning_rate (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    Each row counts its own steps t, so that it does not matter which others are moved with it.
    ``rates``, ``clamp`` and ``undecayed`` are as in ``Sgd``.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    rates: Mapping[str, float] | None = field(default=None, hash=False)
    clamp: Mapping[str, tuple[float, float]] | None = field(default=None, hash=False)
    undecayed: frozenset[str] = frozenset()

    def begin(self, params: Weights) -> Weights:
        state = {f"{part}/{n}": torch.zeros_like(w) for n, w in params.items() for part in "mv"}
        counts = {f"t/{n}": w.new_zeros(len(w), dtype=torch.float64) for n, w in params.items()}
        return state | counts

    def step(self, oracle: Oracle, params: Weights, batch: Batch, state: Weights) -> Tensor:
        grads, loss = oracle(params, batch)
        self.update(params, grads, state)
        return loss

    @torch.no_grad()
    def update(self, params: Weights, grads: Weights, state: Weights) -> None:
        """One step: ``params`` and ``state`` move in place."""
        first, second = self.betas
        for n, w in params.items():
            m, v, t, g = state[f"m/{n}"], state[f"v/{n}"], state[f"t/{n}"], grads[n]
            if self.weight_decay and n not in self.undecayed:
                g = g.add(w, alpha=self.weight_decay)
            t += 1
            m.lerp_(g, 1 - first)
            v.mul_(second).addcmul_(g, g, value=1 - second)
            shape = (-1, *[1] * (w.dim() - 1))
            unbiased = m / (1 - first**t).to(w).view(shape)
            scale = (v / (1 - second**t).to(w).view(shape)).sqrt_()
            w -= (self.rates or {}).get(n, self.learning_rate) * unbiased / (scale + self.eps)
        for name, (low, high) in (self.clamp or {}).items():
            if name in params:
                params[name].clamp_(low, high)


Optimizer = Sgd | Adam
"""What a run can choose between; either starts from rest in each call of ``fit``."""
