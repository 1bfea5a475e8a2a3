"""Prompts: tokens of a transformer that are the same for all images.

Jia et al. 2022, "Visual prompt tuning", the shallow form.
"""

import torch
from torch import Tensor, nn


class Prompts(nn.Module):
    """Tokens of its own behind the first one, drawn as in Jia et al. 2022."""

    def __init__(self, number: int, width: int, patch_values: int) -> None:
        super().__init__()
        bound = (6 / (patch_values + width)) ** 0.5
        self.tokens = nn.Parameter(torch.empty(number, width).uniform_(-bound, bound))

    def forward(self, tokens: Tensor) -> Tensor:
        own = self.tokens.expand(tokens.shape[0], -1, -1)
        return torch.cat([tokens[:, :1], own, tokens[:, 1:]], 1)
