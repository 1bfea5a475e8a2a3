"""Other views of training images: shifted and mirrored, anew each time that a client sees them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedadapt.errors import InputError

REACH = 8  # an image moves by up to an eighth of its side: 4 pixels of 32


@dataclass(frozen=True)
class Augmentation:
    """Random crop and flip (He et al. 2016, sec. 4.2).

    Crop: an image moves by whole pixels, up to an eighth of its height and width. What comes in is
    the image mirrored at its border, where the paper has zeros: it needs no value that stands for
    nothing. Flip: left and right change places, for every second image on average.
    """

    crop: bool = False
    flip: bool = False

    @staticmethod
    def of(text: str) -> "Augmentation | None":
        """Read a setting: ``crop``, ``flip``, ``crop+flip``; None for ``none``."""
        words = text.split("+")
        return None if text == "none" else Augmentation("crop" in words, "flip" in words)

    def __call__(self, images: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
        """Return other views of images [D, B, C, H, W].

        Args:
            images: A batch of each client.
            generators: One a client, which draws for its images alone: it does not matter which
                clients are computed together.

        Raises:
            InputError: The inputs are no images.

        """
        if images.dim() != 5:
            raise InputError(
                f"augmentation: crop and flip are of images, [C, H, W]; inputs here are "
                f"{list(images.shape[2:])}: leave it out"
            )
        count, (height, width) = images.shape[1], images.shape[3:]
        drawn = np.stack([self._draws(own, count, height, width) for own in generators])
        down, right, mirrored = torch.from_numpy(drawn).to(images.device).unbind(-1)
        rows = _reflected(torch.arange(height, device=images.device) + down[..., None], height)
        columns = _reflected(torch.arange(width, device=images.device) + right[..., None], width)
        columns = torch.where(mirrored[..., None] == 1, width - 1 - columns, columns)
        images = images.gather(3, rows[:, :, None, :, None].expand(images.shape))
        return images.gather(4, columns[:, :, None, None, :].expand(images.shape))

    def _draws(
        self, generator: np.random.Generator, count: int, height: int, width: int
    ) -> np.ndarray:
        """Draw by how many pixels each image moves down and right, and whether it is mirrored."""
        drawn = np.zeros((count, 3), np.int64)
        if self.crop:
            for place, side in enumerate((height, width)):
                drawn[:, place] = generator.integers(-(side // REACH), side // REACH + 1, count)
        if self.flip:
            drawn[:, 2] = generator.integers(0, 2, count)
        return drawn


def _reflected(places: Tensor, side: int) -> Tensor:
    """Places in a row of ``side`` pixels, mirrored at both ends; the end is not doubled."""
    places = places.abs()
    return (side - 1) - ((side - 1) - places).abs()
