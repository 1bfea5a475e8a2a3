"""Fine-tuning. Yu et al. 2020, "Salvaging federated learning by local adaptation", sec. 3.1."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedadapt.client.adaptations.tuning import Tuning
from fedadapt.client.cohort import Cohort
from fedadapt.objectives import Objective, cross_entropy
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class FineTune(Tuning):
    """Training goes on with cross-entropy. Yu et al. 2020, sec. 3.1; PFA, sec. 5."""

    def task(
        self, cohort: Cohort, weights: Weights, pooled: Weights | None
    ) -> tuple[Objective, Mapping[str, Weights]]:
        return cross_entropy, {}
