"""Small vision transformers, with and without prompts.

Dosovitskiy et al. 2021, "An image is worth 16x16 words".
"""

import torch
from torch import Tensor, nn

from fedadapt.models.network import Network, sequence
from fedadapt.models.prompts import Prompts

SMALL = 16  # pixels of the shorter side: below, patches have 2 x 2 pixels, else 4 x 4


def vit_tiny(
    image_shape: tuple[int, int, int],
    num_classes: int,
    prompts: int = 0,
    width: int = 64,
    blocks: int = 4,
    heads: int = 4,
) -> Network:
    """A class token and patches through blocks of attention; the class token is the features.

    Args:
        prompts: Tokens between the class token and the patches that are the same for all images;
            they have no position. Without them it is an ordinary transformer.

    """
    channels, height, width_of_image = image_shape
    patch = 2 if min(height, width_of_image) < SMALL else 4
    places = (height // patch) * (width_of_image // patch)
    body = sequence(
        embedding=Embedding(channels, patch, places, width),
        **({"prompts": Prompts(prompts, width, channels * patch**2)} if prompts else {}),
        blocks=nn.Sequential(*(Block(width, heads) for _ in range(blocks))),
        first=First(),
        norm=nn.LayerNorm(width),
    )
    return Network(body, width, num_classes)


class Embedding(nn.Module):
    """Images [B, C, H, W] -> tokens [B, 1 + patches, width]; the first is the class token."""

    def __init__(self, channels: int, patch: int, places: int, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, width))
        self.positions = nn.Parameter(torch.empty(1 + places, width))
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        first = self.token.expand(patches.shape[0], -1, -1)
        return torch.cat([first, patches], 1) + self.positions


class Block(nn.Module):
    """x + attention(norm(x)), then x + layers(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm1(tokens))
        out: Tensor = tokens + self.layers(self.norm2(tokens))
        return out


class Attention(nn.Module):
    """Self-attention: softmax(q k^T / sqrt(d)) v in each head of d numbers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.size = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, number = tokens.shape[0], tokens.shape[1]
        parts = self.qkv(tokens).reshape(batch, number, 3, self.heads, self.size)
        parts = parts.permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[2]
        scores = torch.matmul(query, key.transpose(-2, -1)) * self.size**-0.5
        mixed = torch.matmul(torch.softmax(scores, -1), value)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, number, self.heads * self.size))
        return out


class First(nn.Module):
    """Tokens [B, N, width] -> the first of each image."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]
