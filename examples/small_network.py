"""A network of your own: ``--model small_network:small``. Convolutions with batch norm."""

from torch import nn

from fedadapt.models.network import Network


def small(image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """Return 8 and 16 channels, for images of at least two pixels a side."""
    channels, height, width = image_shape
    body = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    return Network(body, 16 * (height // 2) * (width // 2), num_classes)


def deeper(image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """Return 16, 32 and 64 channels, for images of at least eight pixels a side."""
    channels, height, width = image_shape
    layers: list[nn.Module] = []
    for outputs in (16, 32, 64):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels = outputs
    return Network(
        nn.Sequential(*layers, nn.Flatten()), 64 * (height // 8) * (width // 8), num_classes
    )
