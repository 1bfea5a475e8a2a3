"""FedRep: a shared body and a head of each client's own, trained one after the other.

Collins et al. 2021, "Exploiting shared representations for personalized federated learning",
algorithm 1.
"""

from dataclasses import dataclass

from torch import nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.messages import Update
from fedadapt.parameters import param
from fedadapt.selectors import all_but, head
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class FedRep(SharedModel):
    """FedPer that trains the head first, then the body below it. Collins et al. 2021, algorithm 1.

    The head never leaves its client; everything else is averaged. A round makes ``head_epochs`` on
    the head with the body held, then the run's local epochs on the body with the head held, each
    from a velocity of 0. As in the authors' code the body's batch norm normalises by its batches in
    both phases, and its running statistics move in both. A client that never trained has the
    initial head. By default the body gets as many epochs as in FedAvg; the paper's setting is 10 on
    the head and 1 on the body.
    """

    personal = "on client"
    head_epochs: int = param(
        0, "epochs of a round on the head alone; 0: as many as local-epochs", at_least=0
    )

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        optimizer, schedule = self.local("fedrep")
        schedule = schedule._replace(epochs=self.head_epochs or schedule.epochs)
        headed = fit(cohort, shared, optimizer, schedule, trainable=head)
        return self.sending(
            cohort, fit(cohort, headed.weights, *self.local(), trainable=all_but(head))
        )

    def stays(self, model: nn.Module) -> frozenset[str]:
        return head(model)
