"""What importance is: a score of the logits, and a magnitude of the score's gradient."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedadapt.client.stacking.image_stack import Magnitude

Kind = Literal["mas", "fisher", "true-fisher"]

Score = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits [..., B, C], labels and levels [..., B] -> what is differentiated, means over batches.

Levels are uniform numbers in [0, 1), one an image: the randomness of scores that have any.
"""


class Measure(NamedTuple):
    """What importance is."""

    score: Score
    magnitude: Magnitude


def squared_norm(logits: Tensor, labels: Tensor, levels: Tensor) -> Tensor:
    """||F(x)||^2, of which MAS takes the gradient (Aljundi et al. 2018, sec. 4.1; DUA, eq. 3)."""
    return logits.square().sum(-1).mean(-1)


def log_likelihood(logits: Tensor, labels: Tensor, levels: Tensor) -> Tensor:
    """Log p(label | x): of the empirical Fisher."""
    return logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1).mean(-1)


def drawn_log_likelihood(logits: Tensor, labels: Tensor, levels: Tensor) -> Tensor:
    """Log p(y | x) for y drawn from the model: of the true Fisher, which needs no labels."""
    return log_likelihood(logits, drawn(logits.detach(), levels), levels)


def drawn(logits: Tensor, levels: Tensor) -> Tensor:
    """Class numbers [..., B] from the softmax of ``logits``, by inverting its distribution."""
    reached = F.softmax(logits.double(), dim=-1).cumsum(-1) <= levels.unsqueeze(-1)
    return reached.sum(-1).clamp(max=logits.shape[-1] - 1)  # the last sum may round to below 1


MEASURES: dict[Kind, Measure] = {
    "mas": Measure(squared_norm, torch.abs),
    "fisher": Measure(log_likelihood, torch.square),
    "true-fisher": Measure(drawn_log_likelihood, torch.square),
}
