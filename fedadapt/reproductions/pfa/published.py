"""Every number of PFA's tables 3 to 6 and 8 (Liu et al. 2021): accuracy in percent, Office-Home.

Clients 1 to 5 hold Art, 6 to 10 Clipart, 11 to 15 Product, 16 to 20 Real World. The paper prints
client 6's column twice in table 4; client 7 is here as tables 6 and 8 imply it (54.02, 57.47,
62.07; the baseline and KD cannot be told apart from client 6's). All are of the round with the best
accuracy on the test images.
"""

from typing import NamedTuple

DOMAINS = ("Art", "Clipart", "Product", "Real World")
METHODS = ("Baseline", "Fine-tune", "KD", "EWC", "PFA")


class Published(NamedTuple):
    """The published results of one network."""

    model: str  # the paper's name for it
    clients: dict[str, tuple[float, ...]]  # method -> 20 clients


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split())


VGG11 = Published(
    "VGG-11",
    {
        "Baseline": _numbers(
            "40.21 50.52 59.79 51.55 53.06  42.53 48.85 48.85 48.85 41.81 "
            "73.45 71.75 68.93 76.84 73.89  61.49 66.09 61.49 63.22 68.18"
        ),
        "Fine-tune": _numbers(
            "43.30 56.70 61.86 54.64 55.10  52.30 53.45 56.32 51.15 49.72 "
            "79.10 77.40 75.71 77.40 77.22  63.22 68.97 65.52 63.22 68.75"
        ),
        "KD": _numbers(
            "43.30 59.79 63.92 58.76 55.10  50.00 55.75 59.20 54.60 53.11 "
            "79.10 77.40 78.53 78.53 78.33  63.22 71.84 64.94 65.52 69.89"
        ),
        "EWC": _numbers(
            "43.30 54.64 62.89 58.76 55.10  51.72 54.02 59.20 53.45 52.54 "
            "79.10 80.79 76.84 77.40 79.44  63.22 70.69 65.52 63.22 69.32"
        ),
        "PFA": _numbers(
            "43.30 61.86 63.92 60.82 60.20  59.20 59.20 63.22 59.20 53.11 "
            "81.36 80.79 76.84 79.10 81.67  65.52 72.99 64.94 68.39 71.02"
        ),
    },
)
"""Tables 3 and 5 (their means by domain)."""

MOBILENETV2 = Published(
    "MobileNetV2",
    {
        "Baseline": _numbers(
            "42.27 43.30 49.48 44.33 51.02  51.15 51.15 51.15 47.70 42.37 "
            "71.19 70.62 64.41 69.49 67.22  59.20 61.49 60.92 62.07 61.36"
        ),
        "Fine-tune": _numbers(
            "43.30 49.48 54.64 44.33 50.00  56.32 54.02 58.05 56.32 50.28 "
            "75.14 74.01 67.23 74.01 73.33  60.34 61.49 60.92 59.77 63.07"
        ),
        "KD": _numbers(
            "42.27 51.55 52.58 46.39 55.10  56.32 56.32 60.34 55.75 54.24 "
            "73.45 72.88 64.41 75.14 72.78  59.20 62.64 62.07 62.07 65.34"
        ),
        "EWC": _numbers(
            "43.30 53.61 54.64 47.42 55.10  55.75 57.47 60.34 58.62 52.54 "
            "75.71 74.58 68.36 74.58 71.67  61.49 62.64 62.64 60.92 66.48"
        ),
        "PFA": _numbers(
            "43.30 54.64 54.64 52.58 52.04  62.64 62.07 60.34 63.79 57.06 "
            "80.79 78.53 74.58 77.97 81.67  61.49 62.64 62.64 62.64 66.48"
        ),
        "Random": _numbers(
            "39.18 39.18 48.45 47.42 52.00  52.30 51.72 55.75 52.87 50.28 "
            "66.67 66.67 63.28 66.10 68.89  58.05 56.32 57.47 60.34 57.39"
        ),
    },
)
"""Tables 4, 6 (means by domain) and 8."""
