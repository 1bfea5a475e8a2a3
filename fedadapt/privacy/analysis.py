"""Every image x layer x property inverted, and how like the originals the results are."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedadapt.client.statistics.sparsity import Activation
from fedadapt.models.mode import evaluating
from fedadapt.privacy.inversion import (
    PROPERTIES,
    invert,
    mid_grey,
    pixel_range,
    relative_error,
    relu_layers,
    relu_map,
)
from fedadapt.privacy.quality import MEASURES, Pixels
from fedadapt.privacy.settings import ORDERED, Attack
from fedadapt.privacy.victim import Victim
from fedadapt.simulations.results.parquet import put

AT_ONCE = 32  # images of a batch; the result does not depend on it


class Inversion(NamedTuple):
    """One image found from one property of one layer."""

    image: int  # counts from 0
    layer: int  # number in order of execution
    property: str
    psnr: float  # dB
    ssim: float
    misfit: float  # ||P(x) - P(x0)||^2 / ||P(x0)||^2 of the image found


class Spread(NamedTuple):
    """Over the images; the standard deviation is that of a sample, 0 for a single one."""

    mean: float
    std: float


@dataclass(frozen=True, eq=False)
class Analysis:
    """What an attack made of the images.

    ``reconstructions`` has an array [N, C, H, W] in [0, 1] for every (layer, property). ``blind``
    is what a mid-grey image would reach, which tells nothing: the zero of both measures.
    """

    layers: dict[int, Activation]
    originals: Pixels  # [N, C, H, W], in [0, 1]
    reconstructions: dict[tuple[int, str], Pixels]
    rows: list[Inversion]
    blind: dict[str, Spread]  # by measure

    def spread(self, layer: int, property: str, measure: str) -> Spread:
        """Of ``psnr``, ``ssim`` or ``misfit``."""
        rows = [r for r in self.rows if (r.layer, r.property) == (layer, property)]
        return _spread([getattr(row, measure) for row in rows])

    @property
    def properties(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.property for row in self.rows))

    def ordered(self, measure: str) -> bool | None:
        """Is fm > {h_sp, v_sp} > w_sp at the first ReLU, on average? None where one is missing."""
        if 0 not in self.layers or not set(ORDERED) <= set(self.properties):
            return None
        means = {name: self.spread(0, name, measure).mean for name in ORDERED}
        return _in_order(means)

    def ordered_images(self, measure: str) -> int:
        """How many single images have that order."""
        values: dict[int, dict[str, float]] = {}
        for row in self.rows:
            if row.layer == 0:
                values.setdefault(row.image, {})[row.property] = getattr(row, measure)
        return sum(_in_order(of) for of in values.values())

    def falling(self, property: str, measure: str) -> bool:
        """Whether each later layer's mean is below that of the one before it."""
        means = [self.spread(number, property, measure).mean for number in sorted(self.layers)]
        return all(deeper < before for before, deeper in pairwise(means))


def _in_order(values: dict[str, float]) -> bool:
    sums = (values["h_sp"], values["v_sp"])
    return values["fm"] > max(sums) and min(sums) > values["w_sp"]


def _spread(values: list[float]) -> Spread:
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if values[1:] else 0.0)


def analyse(
    victim: Victim,
    attack: Attack,
    *,
    device: torch.device | None = None,
    started: Callable[[str, int], None] = lambda _name, _steps: None,
    progress: Callable[[int], None] = lambda _: None,
) -> Analysis:
    """Attack every image through every layer and property.

    Args:
        device: Where to compute; the CPU where None.
        started: Called before each layer x property with its name and the steps it will take.
        progress: Called after each step.

    Raises:
        InputError: There is no such layer.

    """
    shape = victim.images.shape[1:]
    model = victim.model.to(device or torch.device("cpu"))
    layers = relu_layers(model, shape, attack.layers)
    originals = (victim.images / 255).numpy()
    reconstructions: dict[tuple[int, str], Pixels] = {}
    rows: list[Inversion] = []
    batches = victim.images.split(AT_ONCE)
    with evaluating(model):
        for number, layer in layers.items():
            for name in attack.properties:
                started(f"ReLU {number}, {name}", attack.steps * len(batches))
                parts = [_attacked(victim, attack, layer, name, b, progress) for b in batches]
                pixels = np.concatenate([images for images, _ in parts])
                reconstructions[number, name] = pixels
                misfits = torch.cat([misfit for _, misfit in parts]).tolist()
                rows += [
                    Inversion(i, number, name, *_quality(originals[i], pixels[i]), misfits[i])
                    for i in range(len(pixels))
                ]
    grey = np.full_like(originals[0], 0.5)
    blind = {key: _spread([of(image, grey) for image in originals]) for key, of in MEASURES.items()}
    return Analysis(layers, originals, reconstructions, rows, blind)


def _quality(original: Pixels, reconstruction: Pixels) -> tuple[float, float]:
    return MEASURES["psnr"](original, reconstruction), MEASURES["ssim"](original, reconstruction)


def _attacked(
    victim: Victim,
    attack: Attack,
    layer: Activation,
    name: str,
    batch: Tensor,
    progress: Callable[[int], None],
) -> tuple[Pixels, Tensor]:
    """Images found [B, C, H, W] in [0, 1], and their misfit [B]."""
    device = next(victim.model.parameters()).device
    view = partial(_view, victim, layer, name)
    black, white = (bound.to(device) for bound in pixel_range(batch.shape[1], victim.scaling))
    start = mid_grey(batch.shape[1:], victim.scaling, attack.seed).to(device)
    with torch.no_grad():
        wanted = view(victim.scaling(batch.to(device)))
    images = invert(
        view,
        wanted,
        start.clamp(black, white).expand(batch.shape),
        (black, white),
        steps=attack.steps,
        learning_rate=attack.learning_rate,
        smoothness=attack.smoothness,
        progress=progress,
    )
    with torch.no_grad():
        misfit = relative_error(view(images), wanted)
    pixels = ((images - black) / (white - black)).clamp(0, 1)  # to the last bit
    return pixels.cpu().numpy(), misfit.cpu()


def _view(victim: Victim, layer: Activation, name: str, images: Tensor) -> Tensor:
    return PROPERTIES[name](relu_map(victim.model, layer, images))


def write_json(
    path: Path, analysis: Analysis, victim: Victim, attack: Attack, source: dict[str, Any]
) -> Path:
    """Write all results except the images.

    Args:
        source: Where network and images come from.

    """
    ordering = {
        measure: {
            "holds": analysis.ordered(measure),
            "images": analysis.ordered_images(measure),
        }
        for measure in MEASURES
        if analysis.ordered(measure) is not None
    }
    content = {
        "source": source,
        "attack": {**asdict(attack), "images": len(analysis.originals)},
        "layers": {
            number: {"path": layer.path, "channels": layer.channels, "positions": layer.positions}
            for number, layer in analysis.layers.items()
        },
        "images": [
            {"image": i, "client": client, "label": label}
            for i, (client, label) in enumerate(zip(victim.clients, victim.labels, strict=True))
        ],
        "inversions": [row._asdict() for row in analysis.rows],
        "grey": {measure: spread._asdict() for measure, spread in analysis.blind.items()},
        "ordering": ordering,  # fm > {h_sp, v_sp} > w_sp at the first ReLU; {}: not to be judged
    }
    return put(path, (json.dumps(content, indent=1) + "\n").encode())
