"""pFedMe: a personal model near the shared one, which descends on the Moreau envelopes.

Dinh et al. 2020, "Personalized federated learning with Moreau envelopes", algorithm 1.
"""

from dataclasses import dataclass

from torch import Tensor

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.client.step_rules import Oracle
from fedadapt.errors import InputError
from fedadapt.messages import Update
from fedadapt.objectives import Batch
from fedadapt.parameters import param
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class PFedMe(SharedModel):
    """Theta minimises F(theta) + (lam / 2) ||theta - w||^2; w goes to theta. Dinh et al. 2020.

    For each batch theta makes ``inner_steps`` steps, from where it was, and w moves by
    rate lam (w - theta). The server moves by ``beta`` from its model to the mean of the w. So many
    steps cost so many passes: at equal epochs this computes ``inner_steps`` times what FedAvg does.

    The paper's rate is made for hundreds of rounds; the default, 1 / lam, takes w to theta. The
    personal model is theta, as in the paper (the authors' code tests w). It stays on the client; a
    client that never trained is served w. Batch norm's running statistics follow the passes at
    theta and are shared, as in the authors' code. There is neither momentum nor weight decay.
    """

    personal = "on client"
    client_keeps = "theta"
    unseen_get = "the shared model"
    ignores = frozenset({"optimizer", "momentum", "weight-decay"})
    lam: float = param(15.0, "strength of the pull of theta towards w", above=0)
    inner_steps: int = param(5, "steps of theta for a batch", at_least=1)
    inner_rate: float | None = param(None, "learning rate of theta (default: lr)", above=0)
    rate: float | None = param(None, "learning rate of w (default: 1 / lam)", at_least=0)
    beta: float = param(1.0, "step of the server towards the mean", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        step = self._rule.inner_rate * self.lam
        if step >= 2:
            raise InputError(
                f"strategy: pfedme: lam {self.lam:g} times inner-rate {self._rule.inner_rate:g} is "
                f"{step:g}; it must be below 2, or theta runs away from w"
            )

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        _, schedule = self.local()
        fitted = fit(cohort, shared, self._rule, schedule)
        return self.sending(cohort, fitted).keeping(theta=fitted.state)

    def personal_model(self, cohort: Cohort, shared: Weights) -> Weights:
        return shared | cohort.state("theta", {n: shared[n] for n in self._parameters})

    def moved(self, before: Weights, mean: Weights) -> Weights:
        """Parameters only: beyond the mean, running variances might be negative."""
        if self.beta == 1:
            return mean
        moving = mean.keys() & self._parameters
        return mean | {n: before[n] + self.beta * (mean[n] - before[n]) for n in moving}

    @property
    def _rule(self) -> "Envelope":
        lr = self.training.optimizer.learning_rate
        inner_rate = lr if self.inner_rate is None else self.inner_rate
        way = 1.0 if self.rate is None else self.rate * self.lam
        return Envelope(self.inner_steps, self.lam, inner_rate, way)

    @property
    def _parameters(self) -> set[str]:
        return {n for n, _ in self.model.named_parameters()}


@dataclass(frozen=True)
class Envelope:
    """A step rule: theta, which is its state, goes towards the prox of F around w, w to theta."""

    inner_steps: int
    lam: float
    inner_rate: float
    way: float  # of w to theta, in a step; 1: all of it

    def begin(self, params: Weights) -> Weights:
        return {n: w.clone() for n, w in params.items()}

    def step(self, oracle: Oracle, params: Weights, batch: Batch, state: Weights) -> Tensor:
        for _ in range(self.inner_steps):
            grads, loss = oracle(state, batch)
            for n, w in params.items():
                pull = self.lam * (state[n] - w)
                state[n].add_(grads[n] + pull, alpha=-self.inner_rate)
        for n, w in params.items():
            w.lerp_(state[n], self.way)
        return loss
