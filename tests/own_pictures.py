"""Clients with pictures of their own: folders of small pictures that a network can learn."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from fedadapt.client.identity import FILE

SIZE = 12


def picture(label: str, seed: int, size: int = SIZE) -> Image.Image:
    """Stripes of one of four directions with noise; no two seeds look alike."""
    rng = np.random.default_rng((sum(label.encode()), seed))
    y, x = np.mgrid[:size, :size] / size
    along = {"across": x, "down": y, "slanted": x + y, "crossed": x - y}[label]
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (2 * along + rng.random()))
    colours = rng.random((size, size, 3)) * 0.7 + 0.3 * rng.random(3)
    values = 0.45 * wave[..., None] + 0.55 * colours
    return Image.fromarray((255 * values).clip(0, 255).astype(np.uint8))


def write_pictures(folder: Path, counts: Mapping[str, int], seed: int) -> None:
    """``<class>/<n>.png``, as many of a class as ``counts`` says."""
    for label, count in counts.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            name = "down" if label == "unlabelled" else label
            picture(name, 1000 * seed + n).save(folder / label / f"{n:03}.png")


def give_identity(state: Path, number: int) -> None:
    """A state folder whose client is the ``number``-th by fingerprint is found by trying."""
    state.mkdir(parents=True, exist_ok=True)
    (state / FILE).write_text(f"{number:064x}")
