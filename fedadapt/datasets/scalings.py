"""Scalings that depend on nobody's pictures."""

from fedadapt.datasets.benchmark import Scaling

_IMAGENET = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def fixed_scaling_of(choice: str, channels: int) -> Scaling:
    """Return the scaling that ``symmetric``, ``unit`` or ``imagenet`` stands for."""
    if choice == "symmetric":
        return Scaling((0.5,) * channels, (0.5,) * channels)
    if choice == "unit":
        return Scaling((0.0,) * channels, (1.0,) * channels)
    if channels == 3:
        return _IMAGENET
    return Scaling((sum(_IMAGENET.mean) / 3,) * channels, (sum(_IMAGENET.std) / 3,) * channels)
