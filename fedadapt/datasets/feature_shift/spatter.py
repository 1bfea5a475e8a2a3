"""Drops of water (severity 1 to 3) or mud (4, 5) on the lens. Needs OpenCV."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedadapt.errors import need

Values = NDArray[np.float64]

# Per severity: mean and spread of the liquid's noise, its blur, its threshold, and how much the
# water covers or how far the mud is blurred.
_LIQUID = (
    (0.62, 0.1, 0.7, 0.7, 0.6),
    (0.65, 0.1, 0.8, 0.7, 0.6),
    (0.65, 0.3, 1.0, 0.69, 0.6),
    (0.65, 0.1, 0.7, 0.68, 0.6),
    (0.65, 0.1, 0.5, 0.67, 0.6),
)
_FIRST_MUD = 3
_WATER = np.array([175, 238, 238]) / 255
_MUD = np.array([63, 42, 20]) / 255
_GREY = np.array([0.299, 0.587, 0.114])
"""What a colour is on a grey image."""


def spatter(x: Values, level: int, rng: np.random.Generator) -> Values:
    """[H, W, C] in [0, 1] -> the same shape; ``level`` is the severity minus 1."""
    mean, spread, blur, threshold, last = _LIQUID[level]
    liquid = ndimage.gaussian_filter(rng.normal(mean, spread, x.shape[:2]), blur, mode="nearest")
    liquid[liquid < threshold] = 0
    if level < _FIRST_MUD:
        return x + last * _relief(liquid)[..., None] * _colour(_WATER, x)
    mud = ndimage.gaussian_filter((liquid > threshold).astype(np.float64), last, mode="nearest")
    mud[mud < 0.8] = 0
    return x * (1 - mud[..., None]) + mud[..., None] * _colour(_MUD, x)


def _relief(liquid: Values) -> Values:
    """Light and shade on the drops, [H, W], the brightest 1."""
    need("cv2", "the spatter corruption")
    import cv2

    layer = (np.clip(liquid, 0, 1) * 255).astype(np.uint8)
    depth = cv2.distanceTransform(255 - cv2.Canny(layer, 50, 150), cv2.DIST_L2, 5)
    depth = cv2.blur(np.minimum(depth, 20), (3, 3)).astype(np.uint8)
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], dtype=np.float32)
    shade = cv2.filter2D(cv2.equalizeHist(depth), cv2.CV_8U, emboss)
    relief = layer * cv2.blur(shade, (3, 3)).astype(np.float64)
    brightest = relief.max()
    return np.asarray(relief / brightest if brightest > 0 else relief)


def _colour(rgb: Values, x: Values) -> Values:
    return rgb if x.shape[2] == 3 else np.array([rgb @ _GREY])
