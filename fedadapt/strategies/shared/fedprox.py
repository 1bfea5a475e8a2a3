"""FedProx: FedAvg with a pull towards the model received.

Li et al. 2020, "Federated optimization in heterogeneous networks", equation 2.
"""

from dataclasses import dataclass

from fedadapt.client.cohort import Cohort
from fedadapt.messages import Update
from fedadapt.objectives import Proximal
from fedadapt.parameters import param
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class FedProx(SharedModel):
    """FedAvg; each client minimises F_k(w) + (mu / 2) ||w - w_received||^2. Li et al. 2020, eq. 2.

    With ``mu`` of 0 it is FedAvg.
    """

    mu: float = param(0.1, "strength of the pull towards the model received", at_least=0)

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        return self.train_shared(cohort, shared, Proximal(self.mu))
