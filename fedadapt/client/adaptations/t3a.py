"""T3A: the head replaced by the means of features that are predicted surely.

Iwasawa and Matsuo 2021, "Test-time classifier adjustment module for model-agnostic domain
generalization".
"""

from collections import defaultdict
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
        features = [own.values for own in features_of(cohort, weights, schedule)]
        by_size = defaultdict(list)
        for d, own in enumerate(features):
            by_size[len(own)].append(d)
        made = torch.empty_like(weights[weight])
        for members in by_size.values():
            made[members] = rows_of(
                weights[weight][members],
                weights[bias][members] if bias else None,
                torch.stack([features[d] for d in members]),
                self.supports,
            )
        return weights | {weight: made} | ({bias: torch.zeros_like(weights[bias])} if bias else {})

    def moves(self, model: nn.Module) -> frozenset[str]:
        return head(model)


def rows_of(weight: Tensor, bias: Tensor | None, features: Tensor, most: int) -> Tensor:
    """Return the new rows of each client, [D, C, F], each of norm 1.

    Args:
        weight: The heads' rows, [D, C, F].
        bias: [D, C], or None.
        features: What joins the rows, [D, N, F].
        most: Supports of a class; 0: all.

    """
    supports = torch.cat([weight, features], 1)
    logits = supports @ weight.transpose(1, 2)
    log_p = (logits if bias is None else logits + bias.unsqueeze(1)).log_softmax(2)
    entropy, predicted = -(log_p.exp() * log_p).sum(2), log_p.argmax(2)
    clients, classes = weight.shape[:2]
    counts = torch.zeros_like(weight[..., 0], dtype=torch.int64)  # [D, C]
    counts.scatter_add_(1, predicted, torch.ones_like(predicted))
    directions = F.normalize(supports, dim=2)
    joining = directions
    if most:
        surest = _surest(entropy, predicted, counts, most).unsqueeze(2)
        joining = torch.where(surest, directions, 0.0)  # a product would keep what is not a number
    rows = predicted + classes * torch.arange(clients, device=weight.device).unsqueeze(1)
    sums = torch.zeros_like(weight).flatten(0, 1)
    sums = sums.index_add_(0, rows.flatten(), joining.flatten(0, 1)).view_as(weight)
    has_any = counts.unsqueeze(2) > 0
    return torch.where(has_any, F.normalize(sums, dim=2), directions[:, : weight.shape[1]])


def _surest(entropy: Tensor, predicted: Tensor, counts: Tensor, most: int) -> Tensor:
    """Return which supports [D, M] are among the ``most`` of their class with the least entropy."""
    order = entropy.argsort(dim=1, stable=True)
    order = order.gather(1, predicted.gather(1, order).argsort(dim=1, stable=True))
    # Class by class, the surest first: places are counted from the first of the class.
    first = (counts.cumsum(1) - counts).gather(1, predicted.gather(1, order))
    places = torch.arange(order.shape[1], device=order.device) - first
    return torch.zeros_like(predicted, dtype=torch.bool).scatter_(1, order, places < most)
