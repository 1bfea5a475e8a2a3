"""Augmentation of training images: a random crop and a flip, as for ImageNet."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Augmented:
    """A scaling that first crops (8 to 100 % of the area), resizes and flips each image.

    Images keep their size. Draws come from ``generator``; torch's global one is left unchanged.
    """

    scaling: Callable[[Tensor], Tensor]
    generator: np.random.Generator

    def __call__(self, inputs: Tensor) -> Tensor:
        """Convert [..., C, H, W] uint8 into the input of a network."""
        from torchvision.transforms import (
            v2,
        )  # the import takes seconds and 160 MB, and few runs need it

        crop = v2.RandomResizedCrop(list(inputs.shape[-2:]), antialias=True)
        change = v2.Compose([crop, v2.RandomHorizontalFlip()])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(self.generator.integers(2**62)))
            changed = [change(image) for image in inputs.flatten(0, -4)]
        return self.scaling(torch.stack(changed).view(inputs.shape))
