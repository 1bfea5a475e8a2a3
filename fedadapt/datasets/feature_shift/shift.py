"""Feature shift: the change that each client's camera makes to all of its images."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from fedadapt.datasets.feature_shift.corruptions import corrupt
from fedadapt.datasets.feature_shift.spec import CORRUPTIONS, Shift
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.random_streams import stream

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels, int, np.random.Generator], Pixels]
"""From an image [H, W, C], a severity (0 where there is none) and random numbers to an image."""

_DOMAIN_NOISE = 0.25  # standard deviation, of the full range
_DOMAIN_BLUR = 0.1  # standard deviation, of the side: 0.8 pixels on 8 x 8 digits


def shifted(image: Pixels, shift: Shift, client: int, number: int, seed: int) -> Pixels:
    """One image as the client sees it, [H, W, C] uint8; rotation needs H = W.

    All randomness is a function of (seed, client, ``number`` of the image) only, so that an
    evaluation can be repeated.
    """
    change = shift.change(client)
    if not change:
        return image
    return _CHANGES[change](image, shift.strength, stream(seed, "shift", client, number))


def shift_images(inputs: Tensor, shift: Shift, client: int, rows: Rows, seed: int) -> Tensor:
    """Images as the client sees them: uint8 [n, C, H, W] -> uint8 [n, C, H, W].

    Args:
        rows: The images' numbers, [n].

    """
    if not shift.change(client) or not len(rows):
        return inputs
    images = inputs.permute(0, 2, 3, 1).numpy()
    changed = [
        shifted(image, shift, client, int(number), seed)
        for image, number in zip(images, rows, strict=True)
    ]
    return torch.from_numpy(np.stack(changed)).permute(0, 3, 1, 2).contiguous()


def _same(image: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    return image


def _rotated(quarters: int, image: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    return np.rot90(image, quarters).copy()


def _inverted(image: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    return np.asarray(255 - image, dtype=np.uint8)


def _blurred(image: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    width = _DOMAIN_BLUR * image.shape[0]
    return _bytes(ndimage.gaussian_filter(image.astype(np.float64), (width, width, 0)))


def _noisy(image: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    return _bytes(image + rng.normal(0, 255 * _DOMAIN_NOISE, image.shape))


def _corrupted(name: str, image: Pixels, severity: int, rng: np.random.Generator) -> Pixels:
    return corrupt(image, name, severity, rng)


def _bytes(values: NDArray[np.float64]) -> Pixels:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


_CHANGES: dict[str, Change] = {
    "upright": _same,
    "plain": _same,
    "rotated90": partial(_rotated, 1),
    "rotated180": partial(_rotated, 2),
    "rotated270": partial(_rotated, 3),
    "inverted": _inverted,
    "blurred": _blurred,
    "noisy": _noisy,
    **{name: partial(_corrupted, name) for name in CORRUPTIONS},
}
