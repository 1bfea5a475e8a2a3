"""Ten corruptions of images, at the strengths of Tiny-ImageNet-C.

Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations"; the Tiny-ImageNet-C parameters are much milder than ImageNet-C's. DUA uses
severity 3.

Each function maps float64 [H, W, C] in [0, 1], C = 1 or 3, to the same shape; ``corrupt`` clips and
rounds (the original truncates). Grey images have no saturation: there ``saturation`` does nothing.
Sizes in pixels are as published (for 64 x 64); ``elastic`` shrinks its own for smaller images,
which it would tear apart.
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from fedadapt.datasets.feature_shift.spatter import spatter
from fedadapt.datasets.feature_shift.spec import CORRUPTIONS

Values = NDArray[np.float64]
Corruption = Callable[[Values, int, np.random.Generator], Values]

# One value for each severity, 1 to 5.
_NOISE = (0.04, 0.08, 0.12, 0.15, 0.18)
_IMPULSE = (0.01, 0.02, 0.05, 0.08, 0.14)
_BLUR = (0.5, 0.75, 1.0, 1.25, 1.5)
_DEFOCUS = ((0.5, 0.6), (1.0, 0.1), (1.5, 0.1), (2.5, 0.01), (3.0, 0.1))  # radius, anti-alias
_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
_SATURATION = ((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (30.0, 0.2))  # factor, offset
_JPEG = (65, 58, 50, 40, 25)
# Of the side: displacement, smoothness, jitter of the corners.
_ELASTIC = (
    (0, 0, 0.08),
    (0.05, 0.3, 0.06),
    (0.1, 0.08, 0.06),
    (0.1, 0.03, 0.03),
    (0.16, 0.03, 0.02),
)


def corrupt(
    image: NDArray[np.uint8], name: str, severity: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Corrupt one image, uint8 [H, W, C] -> uint8 [H, W, C]; severity 1 to 5."""
    corrupted = _BY_NAME[name](image / 255.0, severity - 1, rng)
    return np.rint(np.clip(corrupted, 0, 1) * 255).astype(np.uint8)


def _elastic(x: Values, level: int, rng: np.random.Generator) -> Values:
    height, width, _ = x.shape
    unit = min(64, height, width)
    displacement, smoothness, jitter = (unit * share for share in _ELASTIC[level])
    x = _jitter_corners(x, jitter, rng)
    field = rng.uniform(-1, 1, (2, height, width))
    if smoothness:
        field = ndimage.gaussian_filter(
            field, (0, smoothness, smoothness), mode="reflect", truncate=3
        )
    return _sample(x, np.indices((height, width)) + displacement * field, "reflect")


def _jitter_corners(x: Values, jitter: float, rng: np.random.Generator) -> Values:
    """The affine map that moves three corners of a central square by up to ``jitter`` pixels."""
    height, width, _ = x.shape
    centre = np.array([height, width]) // 2
    reach = min(height, width) // 3
    corners = centre + reach * np.array([(1, 1), (-1, 1), (-1, -1)])  # row, column
    moved = corners + rng.uniform(-jitter, jitter, (3, 2))
    # From a pixel of the result to where it comes from: (row, column, 1) @ back.
    back = np.linalg.solve(np.column_stack((moved, np.ones(3))), corners)
    grid = np.indices((height, width))
    source = np.einsum("chw,cd->dhw", grid, back[:2]) + back[2][:, None, None]
    return _sample(x, source, "mirror")


def _sample(x: Values, where: Values, beyond: str) -> Values:
    """Bilinear values of each channel at ``where`` [2, H, W] (row, column)."""
    planes = [
        ndimage.map_coordinates(x[..., c], where, order=1, mode=beyond) for c in range(x.shape[2])
    ]
    return np.stack(planes, axis=-1)


def _saturation(x: Values, level: int, rng: np.random.Generator) -> Values:
    """HSV saturation S -> S * factor + offset; hue and value stay."""
    factor, offset = _SATURATION[level]
    value = x.max(axis=-1, keepdims=True)
    chroma = value - x.min(axis=-1, keepdims=True)
    old = np.divide(chroma, value, out=np.zeros_like(value), where=value > 0)
    new = np.clip(old * factor + offset, 0, 1)
    # A colour is value * (1 - saturation * f) with f a function of the hue; grey has none.
    return value - (value - x) * np.divide(new, old, out=np.zeros_like(old), where=old > 0)


def _defocus_blur(x: Values, level: int, rng: np.random.Generator) -> Values:
    radius, alias = _DEFOCUS[level]
    row, column = np.ogrid[-8:9, -8:9]
    disk = (row**2 + column**2 <= radius**2).astype(np.float64)
    near = np.exp(-0.5 * (np.arange(-1, 2) / alias) ** 2)
    near /= near.sum()
    kernel = ndimage.correlate(disk / disk.sum(), np.outer(near, near), mode="mirror")
    return ndimage.correlate(x, kernel[..., None], mode="mirror")


def _gaussian_noise(x: Values, level: int, rng: np.random.Generator) -> Values:
    return x + rng.normal(0, _NOISE[level], x.shape)


def _brightness(x: Values, level: int, rng: np.random.Generator) -> Values:
    """HSV value V -> V + amount; hue and saturation stay."""
    value = x.max(axis=-1, keepdims=True)
    brighter = np.clip(value + _BRIGHTNESS[level], 0, 1)
    return np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)


def _gaussian_blur(x: Values, level: int, rng: np.random.Generator) -> Values:
    return ndimage.gaussian_filter(x, (_BLUR[level], _BLUR[level], 0), mode="nearest")


def _jpeg(x: Values, level: int, rng: np.random.Generator) -> Values:
    pixels = np.rint(x * 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(pixels[..., 0] if x.shape[2] == 1 else pixels).save(
        file, "JPEG", quality=_JPEG[level]
    )
    with Image.open(file) as image:
        return (np.asarray(image) / 255.0).reshape(x.shape)


def _contrast(x: Values, level: int, rng: np.random.Generator) -> Values:
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * _CONTRAST[level] + mean


def _impulse_noise(x: Values, level: int, rng: np.random.Generator) -> Values:
    """Salt and pepper in equal parts, channel by channel."""
    draw = rng.random(x.shape)
    half = _IMPULSE[level] / 2
    return np.where(draw < half, 0.0, np.where(draw >= 1 - half, 1.0, x))


_BY_NAME: dict[str, Corruption] = dict(
    zip(
        CORRUPTIONS,
        (
            spatter,
            _elastic,
            _saturation,
            _defocus_blur,
            _gaussian_noise,
            _brightness,
            _gaussian_blur,
            _jpeg,
            _contrast,
            _impulse_noise,
        ),
        strict=True,
    )
)
