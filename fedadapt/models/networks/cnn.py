"""The small convolutional network of many federated papers: two 3x3 convolutions, two layers."""

from torch import nn

from fedadapt.models.network import Network


def cnn(image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """Images of 4 pixels and more; 421,642 parameters for 28 x 28 grey digits."""
    channels, height, width = image_shape
    body = nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 128),
        nn.ReLU(),
    )
    return Network(body, 128, num_classes)
