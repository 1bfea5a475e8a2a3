"""SqueezeNet 1.1 (Iandola et al. 2016): small, and without batch normalisation.

Deviation: the original classifies with a 1x1 convolution and averages the result; here the features
are averaged and a linear head follows, which for the same weights differs by one ReLU.
"""

import torch
from torch import Tensor, nn

from fedadapt.models.network import Network, sequence


class Fire(nn.Module):
    """[B, channels, H, W] -> [B, 2 * expand, H, W], through ``squeeze`` channels."""

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat(
            [
                self.expand1x1_activation(self.expand1x1(x)),
                self.expand3x3_activation(self.expand3x3(x)),
            ],
            dim=1,
        )


def squeezenet1_1(image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """Images of 17 pixels and more; layers are numbered as in torchvision's ``features``."""
    features = nn.Sequential(
        nn.Conv2d(image_shape[0], 64, 3, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    )
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    body = sequence(features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    return Network(body, 512, num_classes)
