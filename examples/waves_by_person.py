"""Time series that belong to persons: ``--benchmark waves_by_person:waves --model har-cnn``.

Every person has a rhythm; recordings are cut into windows that overlap, and stay whole.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

CLASSES = ("resting", "walking", "running")
LENGTH, STEP = 32, 16  # samples of a window, and from one to the next


class Waves(Dataset[tuple[Tensor, int, str, int]]):
    """Items are (window [2, 32], class, person, recording)."""

    classes = CLASSES

    def __init__(self, seed: int) -> None:
        self.items = list(_windows(np.random.default_rng(seed)))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[Tensor, int, str, int]:
        return self.items[number]


def waves(seed: int) -> Waves:
    """Return eight persons with fifteen recordings of four windows each."""
    return Waves(seed)


def _windows(rng: np.random.Generator) -> Iterator[tuple[Tensor, int, str, int]]:
    for person in range(8):
        rhythm = rng.uniform(0.8, 1.2)
        for recording in range(15):
            label = recording % len(CLASSES)
            time = np.arange(LENGTH + 3 * STEP) * rhythm * label / 5 + rng.uniform(0, 6)
            signal = np.stack([np.sin(time), np.cos(2 * time)]) + rng.normal(0, 0.3, (2, len(time)))
            for start in range(0, 4 * STEP, STEP):
                window = torch.from_numpy(signal[:, start : start + LENGTH])
                yield window, label, f"person {person}", recording
