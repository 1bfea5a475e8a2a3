"""Networks that answer some of their classes alone."""

import torch
from torch import Tensor

from fedadapt.weights import Weights

UNLIKELY = -1e4  # the logit of a class that is left out


def with_classes(weights: Weights, head: tuple[str, str], present: Tensor) -> Weights:
    """Return networks that answer classes of their task alone; their logits are as they were.

    Args:
        head: Names of the weight and the bias of the linear head.
        present: Which classes are in each task, [D, C], bool.

    """
    weight, bias = head
    kept = present.to(weights[weight])
    return weights | {
        weight: weights[weight] * kept.unsqueeze(2),
        bias: torch.where(present, weights[bias], torch.full_like(weights[bias], UNLIKELY)),
    }
