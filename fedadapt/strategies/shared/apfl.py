"""APFL: a mixture of shared weights and a client's own.

Deng et al. 2020, "Adaptive personalized federated learning", algorithm 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.messages import Update
from fedadapt.models.mode import training
from fedadapt.objectives import View, cross_entropy
from fedadapt.parameters import param
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights

OWN = "v/"  # before the names of a client's own weights, which are trained beside the network


@dataclass(frozen=True, kw_only=True)
class APFL(SharedModel):
    """FedAvg on w; a client uses alpha v + (1 - alpha) w, and trains v in it. Deng et al. 2020.

    In a step w descends on F(w), and v on F of the mixture, of which w learns nothing. The client
    keeps v, and alpha where it is learnt by the same descent. It begins with v = w, so a client
    that never trained is served w. With an alpha of 0 this is FedAvg; with 1, local training.

    v has no running statistics of its own: the mixture is evaluated with those of w. The training
    of v does not move them, so w is that of FedAvg to the bit (where nothing draws for dropout).
    The mixture is one of weights, as in the paper; the authors' code mixes logits.
    """

    personal = "on client"
    client_keeps = "v, alpha"
    unseen_get = "the shared model"
    alpha: float = param(
        0.25, "share of the client's own weights; learnt: at the start", at_least=0, at_most=1
    )
    learn: bool = param(False, "each client learns its alpha")
    alpha_rate: float | None = param(
        None, "learning rate of alpha (default: that of the weights)", at_least=0
    )

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        optimizer, schedule = self.local()
        v, alpha = self._own(cohort, shared)
        rates = {} if self.alpha_rate is None else {"alpha": self.alpha_rate}
        free = frozenset({"alpha"})  # of the decay, which would draw it to the shared model
        fitted = fit(
            cohort,
            shared,
            replace(optimizer, rates=rates, clamp={"alpha": (0, 1)}, undecayed=free),
            schedule,
            objective=_both,
            extra=v | alpha if self.learn else v,
            memory={"fixed": alpha},
        )
        alpha = {n: fitted.extra.get(n, t) for n, t in alpha.items()}
        v = {n: fitted.extra[n] for n in v}
        return self.sending(cohort, fitted).keeping(v=v, alpha=alpha)

    def personal_model(self, cohort: Cohort, shared: Weights) -> Weights:
        v, alpha = self._own(cohort, shared)
        return shared | _mixture(shared | v, {"fixed": alpha})

    def _own(self, cohort: Cohort, shared: Weights) -> tuple[Weights, Weights]:
        """Return v and alpha of each client."""
        w = {f"{OWN}{n}": shared[n] for n, _ in cohort.model.named_parameters()}
        alpha = next(iter(w.values())).new_full((len(cohort),), self.alpha)
        return cohort.state("v", w), cohort.state("alpha", {"alpha": alpha})


def _both(view: View) -> Tensor:
    """F(w) + F(mixture); the look at the mixture leaves batch norm's running statistics alone."""
    shared = cross_entropy(view)
    mixed = view.apply(_mixture(view.params, view.memory), training)
    return shared + cross_entropy(view.with_logits(mixed))


def _mixture(trained: Weights, memory: Mapping[str, Weights]) -> Weights:
    """Return w + alpha (v - w), through which no gradient reaches w."""
    alpha = trained.get("alpha", memory["fixed"]["alpha"])
    mixed = {}
    for name, v in trained.items():
        if name.startswith(OWN):
            w = trained[name.removeprefix(OWN)].detach()
            mixed[name.removeprefix(OWN)] = torch.lerp(w, v, alpha.view(-1, *[1] * (v.dim() - 1)))
    return mixed
