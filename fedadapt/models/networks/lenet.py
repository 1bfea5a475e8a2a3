"""LeNet-5 (LeCun et al. 1998) with ReLU and max pooling.

28 pixel digits are padded to the 32 that the paper's network takes, inside the first convolution.
"""

from torch import nn

from fedadapt.models.network import Network

TINY = 12  # below this, nothing would be left after the second convolution


def lenet(image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """Images of 4 pixels and more; 61,706 parameters for 28 x 28 grey digits.

    Deviation: images under 12 pixels are padded before the second convolution as well.
    """
    channels, height, width = image_shape
    padding = 2 if min(height, width) < TINY else 0
    sides = [(size // 2 - 4 + 2 * padding) // 2 for size in (height, width)]
    body = nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * sides[0] * sides[1], 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
    )
    return Network(body, 84, num_classes)
