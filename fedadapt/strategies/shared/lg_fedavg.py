"""LG-FedAvg: a body of each client's own, and a shared head.

Liang et al. 2020, "Think locally, act globally: Federated learning with local and global
representations", algorithm 1.
"""

from dataclasses import dataclass

from torch import nn

from fedadapt.client.cohort import Cohort
from fedadapt.messages import Update
from fedadapt.selectors import all_but, head
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class LgFedAvg(SharedModel):
    """FedAvg of the head; each client keeps a body of its own. Liang et al. 2020, algorithm 1.

    The body never leaves its client, batch norm included; the head alone is averaged, by examples
    where the authors' code weighs clients equally. The personal model is the client's own body with
    the shared head. A client that never trained has the initial body, and so has the base model.
    Training starts from the initial weights, not from a model that FedAvg has trained before.
    """

    personal = "on client"
    batch_norm: str = "shared"  # norms stay with the body; not the run's to choose

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        return self.train_shared(cohort, shared)

    def stays(self, model: nn.Module) -> frozenset[str]:
        return all_but(head)(model)
