"""T3A: the head replaced by the means of features that are predicted surely.

Iwasawa and Matsuo 2021, "Test-time classifier adjustment module for model-agnostic domain
generalization".
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.client.statistics.features import features_of
from fedadapt.parameters import param
from fedadapt.selectors import head, linear_head
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class T3A(Adaptation):
    """The head becomes class means of surely predicted features. Iwasawa and Matsuo 2021.

    The features of the client's images join the class that the head predicts for them, and so do
    the head's own rows, which are the first; of each class those with the least entropy stay. A new
    row is the direction of the sum of their directions, without a bias. It is made once of all
    images, not image by image. A class to which nothing belongs keeps its old row's direction.
    """

    needs_labels = False

    part: Part = param("adapt", "which of the client's images", choices=("train", "adapt"))
    batch_size: int = param(20, "images in a batch", at_least=1)
    supports: int = param(5, "features that make a class, the surest; 0: all of them", at_least=0)

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        weight, bias = linear_head(cohort.model)
        schedule = Schedule(self.batch_size, 1, self.part, self.name)
        made = [
            rows_of(
                weights[weight][d],
                weights[bias][d] if bias else None,
                own.values,
                self.supports,
            )
            for d, own in enumerate(features_of(cohort, weights, schedule))
        ]
        replaced = {weight: torch.stack(made)}
        return weights | replaced | ({bias: torch.zeros_like(weights[bias])} if bias else {})

    def moves(self, model: nn.Module) -> frozenset[str]:
        return head(model)


def rows_of(weight: Tensor, bias: Tensor | None, features: Tensor, most: int) -> Tensor:
    """Return the new rows, [C, F], each of norm 1.

    Args:
        weight: The head's rows, [C, F].
        bias: [C], or None.
        features: What joins the rows, [N, F].
        most: Supports of a class; 0: all.

    """
    supports = torch.cat([weight, features])
    log_p = F.linear(supports, weight, bias).log_softmax(1)
    entropy, predicted = -(log_p.exp() * log_p).sum(1), log_p.argmax(1)
    directions = F.normalize(supports, dim=1)
    order = entropy.argsort(stable=True)
    order = order[predicted[order].argsort(stable=True)]  # class by class, the surest first
    counts = predicted.bincount(minlength=len(weight))
    places = torch.arange(len(order), device=order.device)
    places -= (counts.cumsum(0) - counts)[predicted[order]]  # within the class
    chosen = order[places < most] if most else order
    sums = torch.zeros_like(weight).index_add_(0, predicted[chosen], directions[chosen])
    has_any = counts.unsqueeze(1) > 0
    return torch.where(has_any, F.normalize(sums, dim=1), directions[: len(weight)])
