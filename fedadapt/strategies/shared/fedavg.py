"""FedAvg: one model for all, the mean of what clients train from it.

McMahan et al. 2017, "Communication-efficient learning of deep networks from decentralized data",
algorithm 1.
"""

from dataclasses import dataclass

from fedadapt.client.cohort import Cohort
from fedadapt.messages import Update
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class FedAvg(SharedModel):
    """One model, averaged by examples. McMahan et al. 2017, algorithm 1."""

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        return self.train_shared(cohort, shared)
