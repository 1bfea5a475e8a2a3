"""AdaBN: batch-norm statistics of the client's own images.

Li et al. 2016, "Revisiting batch normalization for practical domain adaptation"; phi in DUA,
sec. 3.3.
"""

from dataclasses import dataclass

from torch import nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.client.statistics.batch_norm import batch_norm_statistics
from fedadapt.parameters import param
from fedadapt.selectors import norm_statistics
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class AdaBN(Adaptation):
    """Batch-norm statistics of the client's images; scale and shift stay. Li et al. 2016."""

    needs_batch_norm = True
    needs_labels = False

    part: Part = param("adapt", "which of the client's images", choices=("train", "adapt"))
    batch_size: int = param(20, "images in a batch", at_least=1)

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        schedule = Schedule(self.batch_size, 1, self.part, self.name)
        return weights | batch_norm_statistics(cohort, weights, schedule)

    def moves(self, model: nn.Module) -> frozenset[str]:
        return norm_statistics(model)
