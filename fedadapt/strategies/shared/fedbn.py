"""FedBN: FedAvg of everything but batch normalisation.

Li et al. 2021, "FedBN: Federated learning on non-iid features via local batch normalization",
algorithm 1.
"""

from dataclasses import dataclass

from fedadapt.client.cohort import Cohort
from fedadapt.messages import Update
from fedadapt.strategies.base import require_batch_norm
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class FedBN(SharedModel):
    """FedAvg; batch-norm layers stay on each client. Li et al. 2021, algorithm 1.

    It is FedAvg with ``batch_norm = "local"``: scale, shift and running statistics never travel.
    """

    batch_norm: str = "local"  # the method itself; not the run's to choose

    def __post_init__(self) -> None:
        super().__post_init__()
        require_batch_norm(self.model, "fedbn")

    def train(self, cohort: Cohort, shared: Weights) -> Update:
        return self.train_shared(cohort, shared)
