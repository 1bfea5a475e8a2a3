"""Local training: no federation; the baseline that every personalised method has to beat."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import fit
from fedadapt.messages import Update
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Local(SharedModel):
    """Each client trains a model of its own and sends nothing; the base model stays as it was.

    A client goes on in every round that samples it from the model it had, so over all rounds it
    has the same number of local steps as in FedAvg. Nothing leaves it but its loss and its number
    of images.
    """

    personal = "on client"
    leaves: ClassVar[Mapping[str, str]] = {"train": "no tensor"}

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        optimizer, schedule = self.local()
        fitted = fit(cohort, cohort.state("personal", shared), optimizer, schedule)
        update = Update({}, cohort.num_examples, {"loss": fitted.loss})
        return update.keeping(personal=fitted.weights)

    def stays(self, model: nn.Module) -> frozenset[str]:
        return frozenset(model.state_dict())
