"""Networks with tensors of every kind, to see which of them a method means; nobody computes them.

A method that names tensors by a selector can be asked for their names without any data.
"""

from collections.abc import Iterator

from torch import nn

from fedadapt.models.network import Network
from fedadapt.models.networks.vit import vit_tiny

IMAGE_SHAPE = (1, 8, 8)
CLASSES = 3


def sample_networks() -> Iterator[nn.Module]:
    """Yield a convolution with batch norm below a head; then one with prompts, for who needs it."""
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    yield Network(nn.Sequential(*layers), 4 * 8 * 8, CLASSES)
    yield vit_tiny(IMAGE_SHAPE, CLASSES, prompts=2, width=6, blocks=1, heads=2)
