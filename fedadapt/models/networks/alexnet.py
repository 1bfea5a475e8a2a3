"""AlexNet in its one-tower form (Krizhevsky 2014), numbered as in torchvision: used by DUA."""

from torch import nn

from fedadapt.models.network import Network, sequence


def alexnet(image_shape: tuple[int, int, int], num_classes: int, *, hidden: int = 4096) -> Network:
    """Images of 63 pixels and more; the body goes up to the second fully connected layer."""
    features = nn.Sequential(
        nn.Conv2d(image_shape[0], 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
    )
    classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(256 * 6 * 6, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
    )
    body = sequence(
        features=features,
        avgpool=nn.AdaptiveAvgPool2d(6),
        flatten=nn.Flatten(),
        classifier=classifier,
    )
    return Network(body, hidden, num_classes)
