"""How a schema comes about: from what clients say of their data, and from the run's settings."""

import math
from collections.abc import Iterable, Sequence

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import MeasuredScaling, Scaling
from fedadapt.datasets.own.own_data import Sums
from fedadapt.datasets.own.schema import Schema
from fedadapt.datasets.scalings import fixed_scaling_of
from fedadapt.errors import InputError


def agreed_schema(
    classes: Iterable[str],
    shapes: Sequence[tuple[int, int, int]],
    scaling: Scaling | None,
    tasks: tuple[tuple[str, tuple[str, ...]], ...] = (),
) -> Schema:
    """The schema of a run.

    Args:
        classes: In the order given by the run; or those of all clients, which are sorted then.
        shapes: Of the clients' pictures.
        scaling: None where it is not known yet: bytes become 0 to 1.
        tasks: Name and classes of each, where the server learns tasks.

    Raises:
        InputError: Fewer than two classes, or pictures of different shapes.

    """
    names = classes if isinstance(classes, tuple) else tuple(sorted({*classes}))
    if len(names) < 2:
        raise InputError(
            f"classes: the clients have {len(names)} together; at least two are needed"
        )
    different = sorted({*shapes})
    if len(different) != 1:
        raise InputError(
            f"image-size: clients have pictures of {different[0]} and {different[-1]}; give one "
            "size, so that all are resized"
        )
    channels = different[0][0]
    used = scaling or Scaling((0.0,) * channels, (1.0,) * channels)
    return Schema(
        names, different[0], used.mean, used.std, isinstance(used, MeasuredScaling), tasks
    )


def fixed_scaling(config: RunConfig, channels: int) -> Scaling | None:
    """The scaling that depends on nobody's pictures; None where clients are to be asked.

    ``normalization=auto`` asks nobody: it is ImageNet's. With ``data`` each client tells the sums
    of each channel over its training pictures.
    """
    choice = "imagenet" if config.normalization == "auto" else config.normalization
    return None if choice == "data" else fixed_scaling_of(choice, channels)


def pooled_scaling(found: Sequence[Sums]) -> MeasuredScaling:
    """Mean and deviation of each channel over the training pictures of all clients together."""
    pixels = sum(sums.pixels for sums in found)
    channels = range(len(found[0].total))
    means = [sum(sums.total[c] for sums in found) / pixels for c in channels]
    squares = [sum(sums.squares[c] for sums in found) / pixels for c in channels]
    stds = [
        math.sqrt(max(0.0, square - mean * mean)) or 255.0
        for mean, square in zip(means, squares, strict=True)
    ]
    return MeasuredScaling(tuple(m / 255 for m in means), tuple(s / 255 for s in stds))
