"""FedPer: a shared body, and a head of each client's own.

Arivazhagan et al. 2019, "Federated learning with personalization layers", algorithms 1 and 2.
"""

from dataclasses import dataclass

from torch import nn

from fedadapt.client.cohort import Cohort
from fedadapt.messages import Update
from fedadapt.selectors import head
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class FedPer(SharedModel):
    """FedAvg of the body; each client keeps a head of its own. Arivazhagan et al. 2019.

    The head never leaves its client; everything else is averaged, batch norm as the run says. Body
    and head are trained together, and the personal model is the shared body with the client's own
    head. A client that never trained has the initial head, which is no better than chance until an
    adaptation trains it; so has the base model. The paper also tries more than one personal layer.
    """

    personal = "on client"

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        return self.train_shared(cohort, shared)

    def stays(self, model: nn.Module) -> frozenset[str]:
        return head(model)
