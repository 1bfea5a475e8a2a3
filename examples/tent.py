"""Tent (Wang et al. 2021) as an adaptation of your own: ``--adapt none,adabn,tent:Tent``."""

from dataclasses import dataclass

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.models.mode import training_norms
from fedadapt.parameters import param
from fedadapt.selectors import norm_affine


def entropy(view):
    return -(view.logits.softmax(-1) * view.logits.log_softmax(-1)).sum(-1).mean(-1)


@dataclass(frozen=True, kw_only=True)
class Tent(Adaptation):
    """AdaBN, and scale and shift trained until predictions are sure. Wang et al. 2021, eq. 1."""

    needs_labels, needs_batch_norm = False, True
    lr: float = param(0.01, "learning rate of SGD", at_least=0)
    epochs: int = param(5, "epochs of training on the client", at_least=1)

    def adapt(self, cohort, weights, pooled=None):
        schedule = Schedule(16, self.epochs, "adapt", self.name)
        how = {"objective": entropy, "trainable": norm_affine, "mode": training_norms}
        tuned = fit(cohort, weights, Sgd(self.lr), schedule, **how).weights
        return AdaBN().adapt(cohort, tuned)
