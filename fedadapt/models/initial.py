"""Initial weights from a file or from torchvision, tensor by tensor accounted for."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedadapt.errors import InputError, one_line
from fedadapt.files import check_unpacked
from fedadapt.selectors import head
from fedadapt.weights import Weights

# What torchvision calls the layers after the features; those our network has not are left out.
FOREIGN_HEADS = ("classifier.", "fc.")


PLAIN_TYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
"""Types of numbers that weights may have."""


class Loaded(NamedTuple):
    """What became of a file's tensors and of the model's."""

    source: str
    loaded: tuple[str, ...]  # names in the model that now have the file's values
    initial: tuple[str, ...]  # names in the model that keep their initial values
    left_out: tuple[str, ...]  # names in the file that have no place in the model

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.initial)
        parts = [f"{self.source}: {len(self.loaded)} of {total} tensors loaded"]
        if self.initial:
            parts.append(f"initial values kept in {', '.join(self.initial)}")
        if self.left_out:
            parts.append(f"left out {', '.join(self.left_out)}")
        return "; ".join(parts)


def read_weights(path: Path) -> Weights:
    """Tensors by name from a ``.safetensors`` or ``.pth`` file; no code in the file is run.

    Raises:
        InputError: The file cannot be read or holds something else than tensors.

    """
    if not path.is_file():
        raise InputError(f"weights: {str(path)!r} is no file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            _check_archive(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a broken file can raise anything
        reason = one_line(str(error).strip().split("\n")[0], 200)
        raise InputError(
            f"weights: cannot read {str(path)!r} ({type(error).__name__}: {reason}); "
            "save a state_dict with torch.save or safetensors"
        ) from None
    if not isinstance(state, Mapping):
        raise InputError(
            f"weights: {str(path)!r} holds a {type(state).__name__}; it must hold a state_dict"
        )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                f"weights: {str(path)!r} holds {name!r}, a {type(value).__name__}; it must hold "
                "tensors by name, a state_dict"
            )
        _check_plain(str(path), name, value)
    return dict(state)


def _check_archive(path: Path) -> None:
    """Refuse a file of torch's newer format, a zip, that would fill the memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_unpacked(path, sum(info.file_size for info in archive.infolist()))


def _check_plain(path: str, name: str, tensor: Tensor) -> None:
    """Refuse tensors that are not a block of numbers as networks have them."""
    if tensor.is_nested or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
    elif tensor.is_meta:
        kind = "meta, without values"
    elif tensor.dtype not in PLAIN_TYPES:
        kind = str(tensor.dtype).removeprefix("torch.")
    else:
        return
    raise InputError(
        f"weights: {path}: {one_line(name, 80)!r} is {kind}; it must be a plain tensor of "
        f"{', '.join(str(dtype).removeprefix('torch.') for dtype in PLAIN_TYPES)}"
    )


def imagenet_weights(weights_name: str) -> Weights:
    """Torchvision's ImageNet weights, downloaded once into torch's own cache.

    Raises:
        InputError: No internet, or a damaged download: says which file to put where.

    """
    from torchvision.models import get_weight

    weights = get_weight(weights_name)
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[-1]
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"weights: cannot download {weights.url} ({reason}); put the file at {file}, or give "
            "its path as weights"
        ) from None


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> Loaded:
    """Copy ``state`` into ``model``, whose names may carry a leading ``body.`` in addition.

    The body may be loaded in part, the head wholly or not at all. Filters of RGB images are summed
    over the colours where the model takes grey images: the answer is that for a grey image
    repeated in three channels. Nothing is changed when anything is wrong.

    Raises:
        InputError: No tensor fits, or one is unknown, of another shape or type, or not finite.

    """
    needed = model.state_dict()
    filters = _first_filters(model)
    new: Weights = {}
    left_out: list[str] = []
    for stored, tensor in state.items():
        name = stored if stored in needed else f"body.{stored}"
        if name not in needed:
            if stored.startswith(FOREIGN_HEADS):
                left_out.append(stored)
                continue
            raise InputError(
                f"weights: {source} has {stored!r}, the model has not; it has {_examples(needed)}"
            )
        if name in new:
            raise InputError(f"weights: {source} has {name!r} twice, with 'body.' and without")
        if name in filters and _is_of_colours(tensor, needed[name]):
            tensor = tensor.sum(1, keepdim=True)
        _check_fit(stored, tensor, needed[name], source)
        new[name] = tensor
    if not new:
        raise InputError(
            f"weights: {source} has no tensor for the model, which has {_examples(needed)}"
        )
    classifier = head(model)
    absent = sorted(classifier - new.keys())
    if absent and classifier & new.keys():
        raise InputError(f"weights: {source} has a part of the head only; {absent[0]!r} is missing")
    with torch.no_grad():
        for name, tensor in new.items():
            needed[name].copy_(tensor)
    initial = tuple(name for name in needed if name not in new)
    return Loaded(source, tuple(n for n in needed if n in new), initial, tuple(left_out))


def _is_of_colours(tensor: Tensor, needed: Tensor) -> bool:
    """Whether filters are those needed, but for RGB images instead of grey ones."""
    first, *rest = needed.shape
    return tensor.dim() == 4 and rest[0] == 1 and tensor.shape == (first, 3, *rest[1:])


def _check_fit(name: str, tensor: Tensor, needed: Tensor, source: str) -> None:
    if tensor.shape != needed.shape:
        raise InputError(
            f"weights: {source}: {name!r} has shape {list(tensor.shape)}, the model needs "
            f"{list(needed.shape)}"
        )
    if tensor.is_floating_point() != needed.is_floating_point():
        raise InputError(
            f"weights: {source}: {name!r} is {tensor.dtype}, the model needs {needed.dtype}"
        )
    if not tensor.isfinite().all():
        raise InputError(f"weights: {source}: {name!r} holds values that are not finite numbers")


def _first_filters(model: nn.Module) -> frozenset[str]:
    """The name of the filters that see the image, where it is a grey one."""
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            return frozenset({f"{path}.weight"} if layer.in_channels == 1 else ())
    return frozenset()


def _examples(names: Mapping[str, Tensor]) -> str:
    first = [repr(name.removeprefix("body.")) for name in list(names)[:2]]
    return ", ".join(first) + ", ..."
