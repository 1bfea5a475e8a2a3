"""Convolutions with more filters than pixels."""

import pytest
import torch
from stacks import same
from torch import nn

from fedadapt.client.stacking.columns import suits_columns
from fedadapt.client.stacking.value import Stacked

HEAVY = {
    "padded": (nn.Conv2d(90, 3, 3, padding=1), (2, 3)),
    "strided": (nn.Conv2d(90, 3, 3, stride=2, padding=1), (5, 3)),
    "strided unevenly, without bias": (
        nn.Conv2d(90, 3, (3, 2), (1, 2), (1, 0), bias=False),
        (2, 4),
    ),
    "dilated": (nn.Conv2d(90, 3, 3, dilation=2, padding=2), (2, 2)),
    "one pixel": (nn.Conv2d(50, 3, 3, padding=1), (1, 1)),
}


@pytest.mark.parametrize("kind", HEAVY)
def test_they_are_one_matrix_product(kind):
    """Images have a gradient here: another layer is before it."""
    layer, size = HEAVY[kind]
    channels = layer.in_channels
    assert suits_columns(layer, Stacked(torch.empty(3, 4, channels, *size, device="meta"), 3))
    model = nn.Sequential(nn.Conv2d(2, channels, 1), nn.ReLU(), layer, nn.ReLU(), nn.Flatten())
    same(model, (2, *size))
    same(nn.Sequential(layer, nn.Flatten()), (channels, *size), clients=1)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Conv2d(90, 3, 3, padding=1), (8, 8)),  # many pixels
        (nn.Conv2d(90, 90, 3, padding=1, groups=90), (2, 2)),
        (nn.Conv2d(90, 3, 3, padding="same"), (2, 2)),
    ],
    ids=str,
)
def test_layers_with_many_pixels_groups_or_same_padding_are_not_computed_in_columns(layer, size):
    assert not suits_columns(layer, Stacked(torch.empty(3, 4, 90, *size, device="meta"), 3))
    same(nn.Sequential(nn.Conv2d(2, 90, 1), layer, nn.Flatten()), (2, *size), steps=1)
