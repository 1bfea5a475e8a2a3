"""Class selection: a model answers the classes of its client alone.

Chen et al. 2023, "Train-once-for-all personalization", section 4.2: the baseline of TAPER.
"""

from dataclasses import dataclass

import torch
from torch import nn

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.class_selection import with_classes
from fedadapt.client.cohort import Cohort, Part
from fedadapt.errors import InputError
from fedadapt.parameters import param
from fedadapt.selectors import linear_head
from fedadapt.weights import Weights


@dataclass(frozen=True, kw_only=True)
class ClassSelection(Adaptation):
    """The model answers only the classes that the client has; nothing is trained. Chen 2023.

    The head keeps the logits of these classes as they are; all others can no longer win. What a
    client must know is which classes it has, not how its images look: of a class that is not among
    the images of ``part``, no test image is ever right.
    """

    part: Part = param("train", "which images tell the classes", choices=("train", "adapt"))

    def adapt(self, cohort: Cohort, weights: Weights, pooled: Weights | None = None) -> Weights:
        weight, bias = linear_head(cohort.model)
        if bias is None:
            raise InputError(f"{self.name}: classes are left out by a bias, and the head has none")
        present = torch.zeros(weights[bias].shape, dtype=torch.bool)
        for d, examples in enumerate(cohort.part(self.part)):
            present[d, examples.labels.cpu()] = True
        return with_classes(weights, (weight, bias), present.to(weights[bias].device))

    def moves(self, model: nn.Module) -> frozenset[str]:
        return frozenset(name for name in linear_head(model) if name is not None)
