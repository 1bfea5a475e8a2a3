"""AdaBN-S: AdaBN whose scale and shift are trained on the client. DUA, sec. 3.3."""

from dataclasses import dataclass

from torch import nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.client.statistics.batch_norm import batch_norm_statistics
from fedadapt.models.mode import training_norms
from fedadapt.parameters import param
from fedadapt.selectors import norm_affine, norms
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class AdaBNS(Adaptation):
    """AdaBN, and batch-norm scale and shift trained on the client. DUA, sec. 3.3."""

    needs_batch_norm = True

    part: Part = param("adapt", "which of the client's images", choices=("train", "adapt"))
    batch_size: int = param(20, "images in a batch", at_least=1)
    epochs: int = param(5, "epochs of training on the client", at_least=1)
    lr: float = param(0.001, "learning rate of SGD", above=0)
    momentum: float = param(0.9, "momentum of SGD", at_least=0, below=1)

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        trained = fit(
            cohort,
            weights,
            Sgd(self.lr, self.momentum),
            Schedule(self.batch_size, self.epochs, self.part, self.name),
            trainable=norm_affine,
            mode=training_norms,
        ).weights
        # The statistics are those of a final pass, so that they fit the trained scale and shift.
        final = Schedule(self.batch_size, 1, self.part, f"{self.name}/statistics")
        return trained | batch_norm_statistics(cohort, trained, final)

    def moves(self, model: nn.Module) -> frozenset[str]:
        return norms(model)
