"""Limits of networks: what can be refused before torch is imported."""

from collections.abc import Sequence

from fedadapt.config import RunConfig
from fedadapt.errors import InputError, nearest
from fedadapt.files import user_path
from fedadapt.models.registry import (
    ENTRIES,
    IMAGES,
    SERIES,
    TOKENS,
    NetworkEntry,
    find_network,
)

WEIGHT_FILES = (".safetensors", ".pth")


def check_model(config: RunConfig) -> None:
    """Refuse what cannot work, in milliseconds.

    Raises:
        InputError: An unknown network, a missing weights file, images too small, or a policy for
            batch normalisation on a network without.

    """
    entry = find_network(config.model)
    _check_weights(config, entry)
    if entry is not None:
        if config.image_size and IMAGES in entry.takes:
            check_size(entry, config.image_size, config.image_size)
        check_norms(config, entry.batch_norm)


def check_input(entry: NetworkEntry, shape: Sequence[int], vocabulary: int) -> None:
    """Refuse inputs that a network of ours does not take.

    Args:
        shape: Of one input: (C, H, W), (C, T), (T,), ...
        vocabulary: Number of different tokens; 0 where inputs are real numbers.

    """
    kind = TOKENS if vocabulary else IMAGES if len(shape) == 3 else SERIES
    if kind not in entry.takes:
        fitting = ", ".join(known.name for known in ENTRIES if kind in known.takes)
        takes = {IMAGES: "images [C, H, W]", SERIES: "time series [C, T]", TOKENS: "tokens [T]"}
        raise InputError(
            f"model: {entry.name!r} takes {takes[entry.takes[0]]}, and these inputs are "
            f"{'tokens' if vocabulary else 'numbers'} {list(shape)}; use {fitting}, or "
            "module:factory"
        )
    if kind == IMAGES:
        check_size(entry, *shape[1:])
    elif kind == SERIES and entry.takes[0] == SERIES:
        _check_series(entry, shape)


def _check_series(entry: NetworkEntry, shape: Sequence[int]) -> None:
    """Refuse what is no time series, and one from which pooling would leave nothing."""
    if len(shape) != 2 or shape[1] < entry.min_size:
        raise InputError(
            f"model: {entry.name!r} takes time series [C, T] of at least {entry.min_size} samples; "
            f"these inputs are {list(shape)}"
        )


def check_size(entry: NetworkEntry, height: int, width: int) -> None:
    """Refuse images from which the network's pooling would leave nothing."""
    if min(height, width) < entry.min_size:
        raise InputError(
            f"model: {entry.name!r} needs images of at least {entry.min_size} x {entry.min_size} "
            f"pixels, these have {height} x {width}; resize them with image-size={entry.min_size}"
        )


def check_norms(config: RunConfig, has_batch_norm: bool) -> None:
    """Refuse a policy for batch normalisation where there is none."""
    if has_batch_norm:
        return
    lacks = f"needs a network with batch normalisation, {config.model!r} has none"
    with_norms = ", ".join(entry.name for entry in ENTRIES if entry.batch_norm)
    if config.batch_norm != "shared":
        raise InputError(
            f"batch-norm: {config.batch_norm} {lacks}; use shared or one of {with_norms}"
        )


def _check_weights(config: RunConfig, entry: NetworkEntry | None) -> None:
    weights = config.weights
    if not weights:
        return
    if weights == "imagenet":
        if entry is None or not entry.imagenet:
            having = ", ".join(known.name for known in ENTRIES if known.imagenet)
            raise InputError(
                f"weights: there are no imagenet weights for {config.model!r}; give a "
                f".safetensors or .pth file, or use one of {having}"
            )
        return
    path = user_path(weights, "weights")
    if path.suffix not in WEIGHT_FILES:
        raise InputError(
            f"weights: {weights!r} is neither imagenet nor a .safetensors or .pth file"
            f"{nearest(weights, ('imagenet',))}"
        )
    if not path.is_file():
        raise InputError(f"weights: no file {weights!r}; give the path of an existing file")
