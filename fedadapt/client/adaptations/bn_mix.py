"""Batch-norm statistics between those received and the client's own.

Schneider et al. 2020, "Improving robustness against common corruptions by covariate shift
adaptation".
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Cohort, Part
from fedadapt.parameters import param
from fedadapt.selectors import norm_statistics
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class BnMix(Adaptation):
    """Batch-norm statistics between those received and the client's own. Schneider et al. 2020.

    Mean and variance are each (N received + n own) / (N + n), where n is the number of the client's
    images and N is ``prior``: as if so many images stood behind the statistics received. With N = 0
    it is AdaBN; the larger N, the less moves. The variance is mixed like the mean, as the paper
    does, and is not that of the two sets of images together.

    The client's own statistics are those of AdaBN, where deeper layers see inputs normalised by the
    batch; in the paper these are normalised by mixed statistics already.
    """

    needs_batch_norm = True
    needs_labels = False

    part: Part = param("adapt", "which of the client's images", choices=("train", "adapt"))
    batch_size: int = param(20, "images in a batch", at_least=1)
    prior: float = param(1.0, "images that the statistics received count as", at_least=0)

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        own = AdaBN(part=self.part, batch_size=self.batch_size).adapt(cohort, weights)
        images = [len(examples) for examples in cohort.part(self.part)]
        count = torch.tensor(images, dtype=torch.float64)
        share = count / (self.prior + count)  # exactly 1 without a prior

        def mixed(received: Tensor, measured: Tensor) -> Tensor:
            part = share.to(received).view(-1, *[1] * (received.dim() - 1))
            return (1 - part) * received + part * measured

        moved = {n for n in own if own[n] is not weights[n]}
        return weights | {n: mixed(weights[n], own[n]) for n in moved}

    def moves(self, model: nn.Module) -> frozenset[str]:
        return norm_statistics(model)
