"""How much of an image is in another one: PSNR and SSIM, as scikit-image computes them."""

from collections.abc import Callable
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, np.dtype[np.floating[Any]]]

BEST = 100.0  # dB: less than a thousandth of a byte's step; equal images have no finite PSNR
WINDOW = 7  # pixels, scikit-image's default; smaller images have a smaller one


def psnr(original: Pixels, reconstruction: Pixels) -> float:
    """Peak signal-to-noise ratio, -10 log10 of the mean squared error of [C, H, W] in [0, 1].

    In dB, at most 100; 20 and less is a poor likeness.
    """
    from skimage.metrics import peak_signal_noise_ratio

    measure: Any = peak_signal_noise_ratio  # scikit-image has no types
    with np.errstate(divide="ignore"):
        return min(float(measure(original, reconstruction, data_range=1.0)), BEST)


def ssim(original: Pixels, reconstruction: Pixels) -> float:
    """Structural similarity (Wang et al. 2004), mean over windows and channels of [C, H, W].

    1 where they are equal, about 0 where structures have nothing to do with each other.
    """
    from skimage.metrics import structural_similarity

    measure: Any = structural_similarity
    side = min(WINDOW, *original.shape[1:])
    odd = side - (side + 1) % 2
    return float(measure(original, reconstruction, data_range=1.0, channel_axis=0, win_size=odd))


MEASURES: dict[str, Callable[[Pixels, Pixels], float]] = {"psnr": psnr, "ssim": ssim}
