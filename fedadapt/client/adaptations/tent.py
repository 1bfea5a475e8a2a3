"""Tent: batch-norm scale and shift trained until predictions are sure.

Wang et al. 2021, "Tent: Fully test-time adaptation by entropy minimization".
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.in_stages import STAGE, in_stages
from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.models.mode import training_norms
from fedadapt.objectives import entropy
from fedadapt.parameters import param
from fedadapt.selectors import norm_affine, norms
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Tent(Adaptation):
    """AdaBN, and scale and shift trained until predictions are sure. Wang et al. 2021, eq. 1.

    Meanwhile batch norm normalises by the statistics of each batch. Those that the model is
    evaluated with are measured in a final pass, so that they fit the trained scale and shift: with
    a rate of 0 this is AdaBN.

    The paper adapts to the test images while it predicts them, one step of Adam a batch of 200.
    Here it is the client's images for adaptation, a few epochs of SGD, and then the test.
    """

    needs_batch_norm = True
    needs_labels = False

    part: Part = param("adapt", "which of the client's images", choices=("train", "adapt"))
    batch_size: int = param(20, "images in a batch", at_least=1)
    epochs: int = param(5, "epochs of training on the client", at_least=1)
    stage: int = param(0, STAGE, at_least=0)
    lr: float = param(0.01, "learning rate of SGD; 0 trains nothing", at_least=0)
    momentum: float = param(0.0, "momentum of SGD", at_least=0, below=1)

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        *_, (_, tuned) = self.stages(cohort, weights, pooled)
        return tuned

    def stages(
        self, cohort: Cohort, weights: Weights, pooled: Weights | None = None
    ) -> Iterator[tuple[int, Weights]]:
        measured = AdaBN(part=self.part, batch_size=self.batch_size)

        def train(before: Weights, epochs: int, purpose: str) -> Weights:
            return fit(
                cohort,
                before,
                Sgd(self.lr, self.momentum),
                Schedule(self.batch_size, epochs, self.part, purpose),
                objective=entropy,
                trainable=norm_affine,
                mode=training_norms,
            ).weights

        for ended, tuned in in_stages(train, weights, self.epochs, self.stage, self.name):
            yield ended, measured.adapt(cohort, tuned)

    def moves(self, model: nn.Module) -> frozenset[str]:
        return norms(model)
