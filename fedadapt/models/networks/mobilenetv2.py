"""MobileNetV2 (Sandler et al. 2018) of any width; layers are named as in torchvision.

PFA takes width 0.25. Its count of 133,152 parameters is of ``features`` without the last 1x1
convolution (104,960 more), which the paper's implementation keeps outside of ``features``.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from fedadapt.models.network import Network, he_normal, sequence

# (expansion, channels at width 1, blocks, stride of the first): table 2 of the paper.
BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# The public weights of this width were trained with another epsilon, which no weight file tells.
NORM_EPS = {0.35: 1e-3}


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1; a shortcut where shapes allow."""

    def __init__(
        self, channels: int, width: int, stride: int, expansion: int, norm_eps: float
    ) -> None:
        super().__init__()
        hidden = channels * expansion
        expand = [] if expansion == 1 else [_convolution(channels, hidden, 1, norm_eps=norm_eps)]
        self.conv = nn.Sequential(
            *expand,
            _convolution(hidden, hidden, 3, stride, groups=hidden, norm_eps=norm_eps),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width, eps=norm_eps),
        )
        self.has_shortcut = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


def mobilenetv2(
    image_shape: tuple[int, int, int], num_classes: int, *, width: float = 1.0
) -> Network:
    """Any image size; widths of all layers are ``width`` times the paper's, in steps of 8.

    Deviation: as in PFA, no dropout before the head.
    """
    norm_eps = NORM_EPS.get(width, 1e-5)
    channels = _rounded(32 * width)
    layers: list[nn.Module] = [_convolution(image_shape[0], channels, 3, 2, norm_eps=norm_eps)]
    for expansion, base, repeats, first_stride in BLOCKS:
        out = _rounded(base * width)
        for stride in (first_stride, *[1] * (repeats - 1)):
            layers.append(InvertedResidual(channels, out, stride, expansion, norm_eps))
            channels = out
    num_features = _rounded(1280 * max(1.0, width))
    layers.append(_convolution(channels, num_features, 1, norm_eps=norm_eps))
    body = sequence(
        features=nn.Sequential(*layers), avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()
    )
    return Network(he_normal(body), num_features, num_classes)


def torchvision_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of PFA's implementation, whose blocks are flat, to torchvision's names.

    ``features.2.conv.4.bias`` is there what is ``features.2.conv.1.1.bias`` here; ``conv.*`` is our
    last layer of ``features``. Other states come back as they are.
    """
    if "features.1.conv.0.weight" not in state:
        return dict(state)
    first = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
    others = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
    num_blocks = sum(repeats for _, _, repeats, _ in BLOCKS)

    def renamed(name: str) -> str:
        if flat := re.fullmatch(r"features\.(\d+)\.conv\.(\d+)\.(\w+)", name):
            block, layer, tensor = flat.groups()
            layers = first if block == "1" else others
            return f"features.{block}.conv.{layers.get(layer, layer)}.{tensor}"
        return re.sub(r"^conv\.", f"features.{num_blocks + 1}.", name)

    return {renamed(name): tensor for name, tensor in state.items()}


def _convolution(
    channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1, *, norm_eps: float
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width, eps=norm_eps),
        nn.ReLU6(),
    )


def _rounded(channels: float) -> int:
    """To the nearest multiple of 8, at least 8, and never down by more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest
