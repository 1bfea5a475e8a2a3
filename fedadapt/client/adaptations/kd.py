"""Distillation from the model received.

Yu et al. 2020, "Salvaging federated learning by local adaptation", sec. 3.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedadapt.client.adaptations.tuning import Tuning
from fedadapt.client.cohort import Cohort
from fedadapt.objectives import Distillation, Objective
from fedadapt.parameters import param
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Kd(Tuning):
    """Training that keeps predicting like the model received, the teacher. Yu et al. 2020, 3.3."""

    share: float = param(0.95, "weight of the teacher's part of the loss", at_least=0, at_most=1)
    temperature: float = param(6.0, "temperature of both predictions", above=0)

    def task(
        self, cohort: Cohort, weights: Weights, pooled: Weights | None
    ) -> tuple[Objective, Mapping[str, Weights]]:
        return Distillation(self.share, self.temperature), {"teacher": weights}
