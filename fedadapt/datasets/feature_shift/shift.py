"""Feature shift: what each device's camera does to every image it holds."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedadapt.datasets.feature_shift.corruptions import corrupt
from fedadapt.datasets.partitioning.spec import CORRUPTIONS, DOMAINS, ROTATIONS, Shift
from fedadapt.random_streams import stream

Pixels = NDArray[np.uint8]
_DOMAIN_NOISE = 0.25  # standard deviation, of the full range
_DOMAIN_BLUR = 0.1  # standard deviation, of the side: 0.8 pixels on 8 x 8 digits


def shift_kind(shift: Shift, device: int) -> str:
    """The word for what happens to a device's images; empty where nothing does."""
    choices = {
        "none": ("",),
        "rotation": ROTATIONS,
        "domains": DOMAINS,
        "corruptions": CORRUPTIONS,
        "corruption": (shift.corruption,),
    }[shift.name]
    return choices[device % len(choices)]


def shifted(image: Pixels, shift: Shift, device: int, number: int, seed: int) -> Pixels:
    """One image as the device sees it, [H, W, C] uint8; rotation needs H = W.

    What is random in it is a function of (seed, device, ``number`` of the image) only, so that an
    evaluation can be repeated.
    """
    kind = shift_kind(shift, device)
    if kind in ("", "upright", "plain"):
        return image
    rng = stream(seed, "shift", device, number)
    if kind in CORRUPTIONS:
        return corrupt(image, kind, shift.severity, rng)
    if kind.startswith("rotated"):
        return np.rot90(image, int(kind.removeprefix("rotated")) // 90).copy()
    if kind == "inverted":
        return np.asarray(255 - image, dtype=np.uint8)
    if kind == "blurred":
        width = _DOMAIN_BLUR * image.shape[0]
        spoilt = ndimage.gaussian_filter(image.astype(np.float64), (width, width, 0))
    else:
        spoilt = image + rng.normal(0, 255 * _DOMAIN_NOISE, image.shape)
    return np.rint(np.clip(spoilt, 0, 255)).astype(np.uint8)
