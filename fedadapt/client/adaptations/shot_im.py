"""SHOT-IM: the body trained until predictions are sure and diverse.

Liang et al. 2020, "Do we really need to access the source data? Source hypothesis transfer for
unsupervised domain adaptation": its information maximisation.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.in_stages import STAGE, in_stages
from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.objectives import InformationMaximisation
from fedadapt.parameters import param
from fedadapt.selectors import all_but, head
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class ShotIm(Adaptation):
    """Everything below the head trained until predictions are sure and diverse. Liang et al. 2020.

    The head is held, bit for bit. The diversity term supposes that a client's classes are equally
    frequent: where they are not, a smaller ``diversity`` does less harm.

    The paper's pseudo-labels are left out (its own variant "IM"), and so is the decay of the rate.
    """

    needs_labels = False

    part: Part = param("adapt", "which of the client's images", choices=("train", "adapt"))
    batch_size: int = param(64, "images in a batch", at_least=1)
    epochs: int = param(30, "epochs of training on the client", at_least=1)
    stage: int = param(0, STAGE, at_least=0)
    lr: float = param(0.01, "learning rate of SGD", above=0)
    momentum: float = param(0.9, "momentum of SGD", at_least=0, below=1)
    diversity: float = param(
        1.0, "weight of the entropy of the mean prediction; 0: sure predictions alone", at_least=0
    )

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        *_, (_, tuned) = self.stages(cohort, weights, pooled)
        return tuned

    def stages(
        self, cohort: Cohort, weights: Weights, pooled: Weights | None = None
    ) -> Iterator[tuple[int, Weights]]:
        def train(before: Weights, epochs: int, purpose: str) -> Weights:
            return fit(
                cohort,
                before,
                Sgd(self.lr, self.momentum),
                Schedule(self.batch_size, epochs, self.part, purpose),
                objective=InformationMaximisation(self.diversity),
                trainable=all_but(head),
            ).weights

        return in_stages(train, weights, self.epochs, self.stage, self.name)

    def moves(self, model: nn.Module) -> frozenset[str]:
        return all_but(head)(model)
