"""Prototypes: class means of the features as a head.

Snell et al. 2017, "Prototypical networks for few-shot learning", sec. 2.4, where the distances to
class means are written as a linear layer; Mensink et al. 2013, nearest class mean.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Cohort, Part, Schedule
from fedadapt.client.portions import with_few
from fedadapt.client.statistics.features import Features, features_of
from fedadapt.errors import InputError
from fedadapt.parameters import param
from fedadapt.selectors import head, linear_head
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Prototype(Adaptation):
    """Class means of the client's features as a head, blended with the trained one. Snell 2017.

    No gradient is taken, and the features stay. With class mean p of F features, a logit is
    ``blend`` (2 p z - ||p||^2) / sqrt(F) + (1 - ``blend``) (the trained head's): with ``blend`` 1
    the nearest mean wins, with 0 nothing changes. A class of which the client has no image keeps
    the trained head's row alone.
    """

    part: Part = param("train", "which of the client's images", choices=("train", "adapt"))
    batch_size: int = param(32, "images in a batch", at_least=1)
    shots: int = param(
        0, "images of a class that are used, drawn by the seed; 0: all there are", at_least=0
    )
    blend: float = param(0.25, "weight of the distances to the class means", at_least=0, at_most=1)

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        weight, bias = linear_head(cohort.model)
        if bias is None:
            raise InputError(f"{self.name}: distances need a head with a bias; this has none")
        few = with_few(cohort, self.part, self.shots)
        features = features_of(few, weights, Schedule(self.batch_size, 1, self.part, self.name))
        made = [
            self._blended(weights[weight][d], weights[bias][d], own)
            for d, own in enumerate(features)
        ]
        rows, biases = (torch.stack(parts) for parts in zip(*made, strict=True))
        return weights | {weight: rows, bias: biases}

    def moves(self, model: nn.Module) -> frozenset[str]:
        return head(model)

    def _blended(self, row: Tensor, bias: Tensor, features: Features) -> tuple[Tensor, Tensor]:
        """Return the new rows [C, F] and biases [C] of one client, from its trained ones."""
        belongs = nn.functional.one_hot(features.labels, len(row)).to(row.dtype)  # [N, C]
        count = belongs.sum(0)
        means = belongs.T @ features.values.to(row.dtype) / count.clamp(min=1).unsqueeze(1)
        scale = self.blend / means.shape[1] ** 0.5
        mixed = 2 * scale * means + (1 - self.blend) * row
        shifted = -scale * (means**2).sum(1) + (1 - self.blend) * bias
        has = count > 0
        return torch.where(has.unsqueeze(1), mixed, row), torch.where(has, shifted, bias)
