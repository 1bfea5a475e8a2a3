"""No adaptation, which every other one is compared with."""

from dataclasses import dataclass

from torch import nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Cohort
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class NoAdaptation(Adaptation):
    """The model as the client received it."""

    needs_labels = False
    reads_adapt = False

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        return weights

    def moves(self, model: nn.Module) -> frozenset[str]:
        return frozenset()
