"""Ditto: a personal model on each client, pulled towards the shared one.

Li et al. 2021, "Ditto: Fair and robust federated learning through personalization", algorithm 1.
"""

from dataclasses import dataclass

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.messages import Update
from fedadapt.objectives import Proximal
from fedadapt.parameters import param
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Ditto(SharedModel):
    """FedAvg on w; each client also minimises F_k(v) + (lam / 2) ||v - w||^2. Li et al. 2021.

    The personal model v stays on its client. Both are trained from the w that was received, with
    the same number of epochs; a client begins with v = w.
    """

    personal = "on client"
    client_keeps = "its own model"
    lam: float = param(0.1, "strength of the pull towards the shared model", at_least=0)

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        fitted = fit(
            cohort,
            cohort.state("personal", shared),
            *self.local("ditto"),
            objective=Proximal(self.lam),
            memory={"anchor": shared},
        )
        return self.train_shared(cohort, shared).keeping(personal=fitted.weights)
