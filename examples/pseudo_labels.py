"""Pseudo-labels (Lee 2013) as a local adaptation: ``--adapt none,pseudo_labels:PseudoLabels``."""

from dataclasses import dataclass

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Schedule
from fedadapt.client.fit import Sgd, fit
from fedadapt.models.mode import training_norms
from fedadapt.parameters import param
from fedadapt.selectors import norm_affine


def own_labels(view):
    return -view.logits.log_softmax(-1).max(-1).values.mean(-1)


@dataclass(frozen=True, kw_only=True)
class PseudoLabels(Adaptation):
    """AdaBN, and scale and shift trained with predictions as labels. Lee 2013."""

    needs_labels, needs_batch_norm = False, True
    lr: float = param(0.01, "learning rate of SGD", at_least=0)
    epochs: int = param(5, "epochs of training on the client", at_least=1)

    def adapt(self, cohort, weights, pooled=None):
        schedule = Schedule(16, self.epochs, "adapt", self.name)
        how = {"objective": own_labels, "trainable": norm_affine, "mode": training_norms}
        tuned = fit(cohort, weights, Sgd(self.lr), schedule, **how).weights
        return AdaBN().adapt(cohort, tuned)
