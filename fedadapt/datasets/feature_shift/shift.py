"""Feature shift: what each client's camera does to every image it holds."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fedadapt.datasets.feature_shift.corruptions import corrupt
from fedadapt.datasets.partitioning.spec import CORRUPTIONS, DOMAINS, ROTATIONS, Shift
from fedadapt.random_streams import stream

Pixels = NDArray[np.uint8]
_DOMAIN_NOISE = 0.25  # standard deviation, of the full range
_DOMAIN_BLUR = 0.1  # standard deviation, of the side: 0.8 pixels on 8 x 8 digits


def shift_kind(shift: Shift, client: int) -> str:
    """The word for what happens to a client's images; empty where nothing does."""
    choices = {
        "none": ("",),
        "rotation": ROTATIONS,
        "domains": DOMAINS,
        "corruptions": CORRUPTIONS,
        "corruption": (shift.corruption,),
    }[shift.name]
    return choices[client % len(choices)]


def shifted(image: Pixels, shift: Shift, client: int, number: int, seed: int) -> Pixels:
    """One image as the client sees it, [H, W, C] uint8; rotation needs H = W.

    What is random in it is a function of (seed, client, ``number`` of the image) only, so that an
    evaluation can be repeated.
    """
    kind = shift_kind(shift, client)
    if kind in ("", "upright", "plain"):
        return image
    rng = stream(seed, "shift", client, number)
    if kind in CORRUPTIONS:
        return corrupt(image, kind, shift.severity, rng)
    if kind.startswith("rotated"):
        return np.rot90(image, int(kind.removeprefix("rotated")) // 90).copy()
    if kind == "inverted":
        return np.asarray(255 - image, dtype=np.uint8)
    if kind == "blurred":
        width = _DOMAIN_BLUR * image.shape[0]
        corrupted = ndimage.gaussian_filter(image.astype(np.float64), (width, width, 0))
    else:
        corrupted = image + rng.normal(0, 255 * _DOMAIN_NOISE, image.shape)
    return np.rint(np.clip(corrupted, 0, 255)).astype(np.uint8)
