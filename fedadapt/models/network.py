"""What all our networks are: a body that makes features of images, and a linear head."""

from collections import OrderedDict

from torch import Tensor, nn


class Network(nn.Module):
    """Images [B, C, H, W] -> logits [B, num_classes].

    ``body`` makes features [B, num_features]; ``head`` starts with PyTorch's default weights.
    Layers inside the body keep torchvision's names, so its weight files fit below ``body.``.
    """

    def __init__(self, body: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def sequence(**layers: nn.Module) -> nn.Sequential:
    """``nn.Sequential`` whose layers have names."""
    return nn.Sequential(OrderedDict(layers))


def he_normal(body: nn.Module) -> nn.Module:
    """Draw convolutions from N(0, 2 / fan_out) and zero their biases (He et al. 2015, eq. 14)."""
    for layer in body.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return body
