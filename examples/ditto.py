"""Ditto (Li et al. 2021) as a strategy of your own: ``--strategy ditto:Ditto``.

A shared model is trained as in FedAvg. Beside it every client has a model of its own, which never
leaves it and is pulled towards the shared one.
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
    """FedAvg on w; each client also minimises F(v) + (lam / 2) ||v - w||^2. Li et al. 2021, 1."""

    personal = "on client"
    lam: float = param(0.1, "strength of the pull towards the shared model", at_least=0)

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        mine = fit(
            cohort,
            cohort.state("personal", default=shared),
            *self.local("ditto"),
            objective=Proximal(self.lam),
            memory={"anchor": shared},
        )
        return self.train_shared(cohort, shared).keeping(personal=mine.weights)
