"""LP-FT: the head is tuned first, then everything.

Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform
out-of-distribution".
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.models.mode import evaluating
from fedadapt.parameters import param
from fedadapt.selectors import head
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class LpFt(Adaptation):
    """The head is tuned on frozen features, then everything at a tenth of the rate. Kumar 2022.

    While the head is tuned the network is in evaluation mode: the body is held bit for bit, batch
    norm's statistics too. Then they follow the images, as in all training; after ``adabn`` they fit
    them from the start. Both phases have as many epochs. A run with ``--curves`` evaluates the
    model between the two.
    """

    part: Part = param("train", "which of the client's images", choices=("train", "adapt"))
    batch_size: int = param(32, "images in a batch", at_least=1)
    epochs: int = param(10, "epochs of each of the two phases", at_least=1)
    head_lr: float = param(0.05, "learning rate of SGD while the head is tuned", at_least=0)
    lr: float = param(0.005, "learning rate of SGD when everything is tuned", at_least=0)
    momentum: float = param(0.5, "momentum of SGD", at_least=0, below=1)

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        *_, (_, tuned) = self.stages(cohort, weights, pooled)
        return tuned

    def stages(
        self, cohort: Cohort, weights: Weights, pooled: Weights | None = None
    ) -> Iterator[tuple[int, Weights]]:
        first = Schedule(self.batch_size, self.epochs, self.part, f"{self.name}/head")
        then = first._replace(purpose=self.name)
        slow, fast = (Sgd(rate, self.momentum) for rate in (self.lr, self.head_lr))
        probed = fit(cohort, weights, fast, first, trainable=head, mode=evaluating).weights
        yield self.epochs, probed
        yield 0, fit(cohort, probed, slow, then).weights
