"""FedBABU: only the body is trained, below a head that stays as it was; then all is fine-tuned.

Oh et al. 2022, "FedBABU: Toward enhanced representation for federated image classification",
algorithm 1.
"""

from dataclasses import dataclass, replace

from torch import nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.messages import Update
from fedadapt.parameters import param
from fedadapt.selectors import all_but, head
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class FedBabu(SharedModel):
    """FedAvg of the body below the initial head; clients fine-tune it all. Oh et al. 2022.

    The head is everybody's and never changes; everything else is averaged, batch norm as the run
    says. Clients keep nothing: a personal model is made when it is asked for, of the shared one by
    ``fine_tune_epochs`` on the client's training images. Clients that never trained get theirs in
    the same way. The authors fine-tune for 5 epochs at 1/100 of the learning rate.
    """

    personal = "on client"
    unseen_get = "what they fine-tune of the shared model"
    fine_tune_epochs: int = param(10, "epochs that make a personal model", at_least=1)
    fine_tune_rate: float = param(
        0.2, "learning rate of fine-tuning, as a multiple of the run's", at_least=0
    )

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        return self.sending(cohort, fit(cohort, shared, *self.local(), trainable=all_but(head)))

    def fixed(self, model: nn.Module) -> frozenset[str]:
        return head(model)

    def personal_model(self, cohort: Cohort, shared: Weights) -> Weights:
        optimizer, schedule = self.local("fedbabu")
        slower = replace(optimizer, learning_rate=optimizer.learning_rate * self.fine_tune_rate)
        schedule = schedule._replace(epochs=self.fine_tune_epochs)
        return fit(cohort, shared, slower, schedule).weights
