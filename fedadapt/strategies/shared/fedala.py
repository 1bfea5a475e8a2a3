"""FedALA: each client begins a round with a mixture of its old head and the new one.

Zhang et al. 2023, "FedALA: Adaptive local aggregation for personalized federated learning",
algorithm 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import Sgd, fit
from fedadapt.messages import Update
from fedadapt.models.mode import evaluating
from fedadapt.parameters import param
from fedadapt.selectors import head, nothing
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights

SHARE = "share/"  # before the names of the head, whose share of the new weights is learnt


@dataclass(frozen=True, kw_only=True)
class FedALA(SharedModel):
    """FedAvg; a client's head starts at old + (new - old) A, and A is learnt. Zhang et al. 2023.

    Everything below the head is the shared model's. A, in [0, 1] for each weight of the head, is
    learnt on a part of the training images with the network frozen and in evaluation mode, so
    that batch norm does not move. It starts at 1, is learnt for ``first_epochs`` the first time and
    for one epoch in later rounds, and stays on the client with the head that it trained last. The
    authors learn it the first time until the loss is steady, which may be never; ours is a fixed
    number of epochs. ``rate`` has no natural scale: 1, 10 and 100 are worth a try.

    The personal model is the mixture, untrained, made of the newest shared model at the time of the
    evaluation. A client that never trained has nothing to mix and is served the shared model.
    """

    personal = "on client"
    client_keeps = "its last head, A"
    unseen_get = "the shared model"
    rate: float = param(1.0, "learning rate of the mixture", at_least=0)
    share: float = param(0.8, "share of the training images it is learnt on", at_least=0, at_most=1)
    first_epochs: int = param(10, "epochs in which it is learnt the first time", at_least=1)

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        start, mixing = self._mixture(cohort, shared)
        fitted = fit(cohort, start, *self.local())
        old = {n: fitted.weights[n] for n in head(self.model)}
        return self.sending(cohort, fitted).keeping(old=old, mixing=mixing)

    def personal_model(self, cohort: Cohort, shared: Weights) -> Weights:
        return self._mixture(cohort, shared)[0]

    def _mixture(self, cohort: Cohort, shared: Weights) -> tuple[Weights, Weights]:
        """Return the mixed model, and what was learnt of A, with how often: both [D, ...]."""
        new = {n: shared[n] for n in sorted(head(self.model))}
        memory = {"old": cohort.state("old", new), "new": new}
        ones = {f"{SHARE}{n}": torch.ones_like(t) for n, t in new.items()}
        times = next(iter(new.values())).new_zeros(len(cohort))
        mixing = cohort.state("mixing", ones | {"times": times})
        able = cohort.has("old").to(times.device)
        if self.share and able.any():
            learnt = self._learnt(cohort, shared, mixing, memory, epochs=1)
            first = able & (mixing["times"] == 0)
            if self.first_epochs > 1 and first.any():
                longer = self._learnt(cohort, shared, mixing, memory, self.first_epochs)
                learnt = {n: torch.where(_along(first, t), longer[n], t) for n, t in learnt.items()}
            mixing = learnt | {"times": mixing["times"] + able}
        return shared | _mixed(mixing, {}, memory), mixing

    def _learnt(
        self,
        cohort: Cohort,
        shared: Weights,
        mixing: Weights,
        memory: Mapping[str, Weights],
        epochs: int,
    ) -> Weights:
        """Return A after some epochs; where old and new are the same it has no gradient."""
        before = {n: t for n, t in mixing.items() if n.startswith(SHARE)}
        _, schedule = self.local("ala")
        return fit(
            cohort.subset(self.share, "ala"),
            shared,
            Sgd(self.rate, clamp=dict.fromkeys(before, (0, 1))),
            schedule._replace(epochs=epochs),
            trainable=nothing,
            extra=before,
            through=_mixed,
            memory=memory,
            mode=evaluating,
        ).extra


def _mixed(trained: Weights, held: Weights, memory: Mapping[str, Weights]) -> Weights:
    old, new = memory["old"], memory["new"]
    return {n: torch.lerp(old[n], new[n], trained[f"{SHARE}{n}"]) for n in new}


def _along(chosen: Tensor, like: Tensor) -> Tensor:
    """Give ``chosen`` [D] as many axes as ``like`` [D, ...]."""
    return chosen.view(-1, *[1] * (like.dim() - 1))
