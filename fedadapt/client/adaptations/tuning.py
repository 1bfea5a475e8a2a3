"""The family of local adaptations that go on training the model on the client."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.in_stages import STAGE, in_stages
from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.client.portions import with_few
from fedadapt.objectives import Objective
from fedadapt.parameters import param
from fedadapt.selectors import Selector, everything, head, norm_affine, norm_statistics
from fedadapt.weights import Weights

SELECTORS: dict[str, Selector] = {
    "all": everything,
    "head": head,
    "norm-affine": norm_affine,
}


@dataclass(frozen=True, kw_only=True)
class Tuning(Adaptation):
    """Training on the client. A subclass says what is minimised in ``task``, nothing else.

    The default budget of 150 epochs is PFA's own: 30 rounds of 5 epochs (sec. 5).
    """

    part: Part = param("train", "which of the client's images", choices=("train", "adapt"))
    shots: int = param(
        0, "images of a class that are used, drawn by the seed; 0: all there are", at_least=0
    )
    batch_size: int = param(32, "images in a batch", at_least=1)
    epochs: int = param(150, "epochs of training on the client", at_least=1)
    stage: int = param(0, STAGE, at_least=0)
    lr: float = param(0.01, "learning rate of SGD", above=0)
    momentum: float = param(0.5, "momentum of SGD", at_least=0, below=1)
    weight_decay: float = param(0.0, "weight decay of SGD", at_least=0)
    trainable: Literal["all", "head", "norm-affine"] = param(
        "all",
        "what is trained: everything, the head, or batch-norm scale and shift",
        choices=tuple(SELECTORS),
    )

    @abstractmethod
    def task(
        self, cohort: Cohort, weights: Weights, pooled: Weights | None
    ) -> tuple[Objective, Mapping[str, Weights]]:
        """The objective, and the fixed references that its ``View.memory`` holds.

        It is asked once, before the first stage: ``weights`` is the model that was received. The
        arguments are those of ``adapt``.
        """

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        *_, (_, tuned) = self.stages(cohort, weights, pooled)
        return tuned

    def moves(self, model: nn.Module) -> frozenset[str]:
        return SELECTORS[self.trainable](model) | norm_statistics(model)

    def stages(
        self, cohort: Cohort, weights: Weights, pooled: Weights | None = None
    ) -> Iterator[tuple[int, Weights]]:
        cohort = with_few(cohort, self.part, self.shots)
        objective, memory = self.task(cohort, weights, pooled)
        optimizer = Sgd(self.lr, self.momentum, self.weight_decay)

        def train(before: Weights, epochs: int, purpose: str) -> Weights:
            return fit(
                cohort,
                before,
                optimizer,
                Schedule(self.batch_size, epochs, self.part, purpose),
                objective=objective,
                trainable=SELECTORS[self.trainable],
                memory=memory,
            ).weights

        return in_stages(train, weights, self.epochs, self.stage, self.name)
