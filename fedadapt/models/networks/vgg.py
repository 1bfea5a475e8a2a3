"""VGG-11 (Simonyan and Zisserman 2015, configuration A), with and without batch normalisation.

PFA uses the convolutions with batch normalisation, an average pool and one linear layer; DUA keeps
the three fully connected layers. Layers are numbered as in torchvision.
"""

from torch import nn

from fedadapt.models.network import Network, he_normal, sequence

POOL = 0
WIDTHS = (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL)


def vgg11(image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """PFA's network: images of 32 pixels and more, 9,225,984 parameters in ``body`` (RGB)."""
    features = _features(image_shape[0], batch_norm=True)
    body = sequence(features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    return Network(body, 512, num_classes)


def vgg11_fc(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    batch_norm: bool = False,
    hidden: int = 4096,
) -> Network:
    """DUA's networks: the body goes up to the second of the fully connected layers."""
    classifier = nn.Sequential(
        nn.Linear(512 * 7 * 7, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(),
    )
    for layer in classifier:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    body = sequence(
        features=_features(image_shape[0], batch_norm),
        avgpool=nn.AdaptiveAvgPool2d(7),
        flatten=nn.Flatten(),
        classifier=classifier,
    )
    return Network(body, hidden, num_classes)


def vgg11_bn_fc(
    image_shape: tuple[int, int, int], num_classes: int, *, hidden: int = 4096
) -> Network:
    """``vgg11_fc`` with batch normalisation after each convolution, before its ReLU."""
    return vgg11_fc(image_shape, num_classes, batch_norm=True, hidden=hidden)


def _features(channels: int, batch_norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for width in WIDTHS:
        if width == POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU())
        channels = width
    return he_normal(nn.Sequential(*layers))
