"""Two hidden layers of 100, as DUA has for digits (McMahan et al. 2017 take 200)."""

from math import prod

from torch import nn

from fedadapt.models.network import Network

HIDDEN = 100


def mlp(image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """Any image size; 89,610 parameters for 28 x 28 grey digits."""
    body = nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(image_shape), HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
    )
    return Network(body, HIDDEN, num_classes)
