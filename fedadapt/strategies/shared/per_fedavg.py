"""Per-FedAvg: a shared model that one step on a client's images makes its own.

Fallah et al. 2020, "Personalized federated learning with theoretical guarantees: a model-agnostic
meta-learning approach", algorithm 1 with the approximations FO and HF of section 5.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.client.step_rules import Oracle
from fedadapt.messages import Update
from fedadapt.objectives import Batch
from fedadapt.parameters import param
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights

MOST_IMAGES = 512  # of a personal step: bounds memory; a client with fewer uses all of them


@dataclass(frozen=True, kw_only=True)
class PerFedAvg(SharedModel):
    """Minimises F(w - a grad F(w)): a model one step from every client's. Fallah et al. 2020.

    A batch is cut in two. The gradient after a step of ``inner_rate`` on the first part is taken
    on the second, and w makes a step of ``lr`` along it (FO). With ``delta`` the product of the
    Hessian with this gradient is taken on a third part, by central differences of that length
    (HF). The server averages as FedAvg does.

    The personal model is ``steps`` such inner steps from w, on all training images of a client (on
    512 where it has more). Nothing is kept, and clients that never trained are served the same way.
    Batch norm's running statistics follow every pass; there is neither momentum nor weight decay.
    """

    personal = "on client"
    unseen_get = "a step from the shared model on their own images"
    ignores = frozenset({"optimizer", "momentum", "weight-decay"})
    inner_rate: float | None = param(None, "rate of the inner step (default: lr)", at_least=0)
    delta: float = param(0.0, "HF: length of its differences, such as 1e-3; 0: FO", at_least=0)
    steps: int = param(1, "inner steps of the personal model", at_least=1)

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        optimizer, schedule = self.local()
        rule = Meta(self._inner_rate, optimizer.learning_rate, self.delta)
        return self.sending(cohort, fit(cohort, shared, rule, schedule))

    def personal_model(self, cohort: Cohort, shared: Weights) -> Weights:
        largest = int(cohort.num_examples.max())
        schedule = Schedule(min(largest, MOST_IMAGES), purpose="meta", steps=self.steps)
        return fit(cohort, shared, Sgd(self._inner_rate), schedule).weights

    @property
    def _inner_rate(self) -> float:
        lr = self.training.optimizer.learning_rate
        return lr if self.inner_rate is None else self.inner_rate


@dataclass(frozen=True)
class Meta:
    """A step rule: w steps along the gradient at w - inner_rate grad F(w), from where it was."""

    inner_rate: float
    learning_rate: float
    delta: float = 0.0

    def begin(self, params: Weights) -> Weights:
        return {}

    def step(self, oracle: Oracle, params: Weights, batch: Batch, state: Weights) -> Tensor:
        first, second, *third = batch.cut(3 if self.delta else 2)
        inner, _ = oracle(params, first)
        outer, loss = oracle(_plus(params, -self.inner_rate, inner), second)
        for part in third:
            up, _ = oracle(_plus(params, self.delta, outer), part)
            down, _ = oracle(_plus(params, -self.delta, outer), part)
            hessian = _plus(up, -1, down)
            outer = _plus(outer, -self.inner_rate / (2 * self.delta), hessian)
        for n, w in params.items():
            w.add_(outer[n], alpha=-self.learning_rate)
        return loss


def _plus(a: Weights, share: float, b: Weights) -> Weights:
    return {n: torch.add(t, b[n], alpha=share) for n, t in a.items()}
