"""A small network of 1-D convolutions for time series, such as those of motion sensors."""

from torch import nn

from fedadapt.models.network import Network

WIDTHS = (16, 32)
TAPS = 5


def har_cnn(image_shape: tuple[int, int], num_classes: int) -> Network:
    """Time series [C, T] of any length; 3,754 parameters for 9 channels and 10 classes.

    Two convolutions over 5 samples, in steps of 2, each with batch norm and ReLU; then the mean
    over time.
    """
    channels, _ = image_shape
    first, second = WIDTHS
    body = nn.Sequential(
        nn.Conv1d(channels, first, TAPS, stride=2, padding=TAPS // 2),
        nn.BatchNorm1d(first),
        nn.ReLU(),
        nn.Conv1d(first, second, TAPS, stride=2, padding=TAPS // 2),
        nn.BatchNorm1d(second),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
    )
    return Network(body, second, num_classes)
