"""From a run's settings to a network with its initial weights."""

import logging
from hashlib import sha256

import torch
from torch import Tensor, nn

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.factories import call_factory, reason_of
from fedadapt.files import user_path
from fedadapt.models.initial import imagenet_weights, load_weights, read_weights
from fedadapt.models.limits import check_input, check_model, check_norms
from fedadapt.models.mode import evaluating
from fedadapt.models.norms import has_batch_norm
from fedadapt.models.registry import NETWORKS, NetworkEntry, find_network
from fedadapt.models.sequences.inputs import blank, check_vocabulary
from fedadapt.models.shared_tensors import refuse_shared_tensors
from fedadapt.registry import import_named
from fedadapt.selectors import head_of
from fedadapt.weights import Weights

Shape = tuple[int, ...]

log = logging.getLogger(__name__)


def build_model(
    config: RunConfig, image_shape: Shape, num_classes: int, vocabulary: int = 0
) -> nn.Module:
    """Make the network of ``config`` for images (C, H, W): on the CPU, float32, in training mode.

    Random weights are a function of ``config.seed`` alone; torch's global generator stays as it is.

    Args:
        image_shape: Of an input: (C, H, W) of an image, (C, T) of a time series, (T,) of tokens.
        vocabulary: Number of different tokens; 0 where inputs are real numbers.

    Raises:
        InputError: See ``check_model``; or the weights, or a user's factory, do not fit.

    """
    check_model(config)
    entry = find_network(config.model)
    model = make_network(config.model, image_shape, num_classes, vocabulary, seed=config.seed)
    if config.weights:
        state, source = _weights(config, entry)
        log.info("%s", load_weights(model, state, source))
    check_norms(config, has_batch_norm(model))
    return model.train()


def make_network(
    name: str, image_shape: Shape, num_classes: int, vocabulary: int = 0, *, seed: int = 0
) -> nn.Module:
    """Make a network by its name, or by ``module:factory``; its weights are drawn from ``seed``.

    Args:
        vocabulary: Number of different tokens; 0 where inputs are real numbers.

    Raises:
        InputError: An unknown name, inputs that it does not take, or a factory that does not fit.

    """
    entry = find_network(name)
    if entry is not None:
        check_input(entry, image_shape, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_stream(seed))
        if entry is None:
            return _made_by_user(name, image_shape, num_classes, vocabulary)
        factory = import_named("model", name, entry.factory)
        words = {"vocabulary": vocabulary} if vocabulary else {}
        network: nn.Module = factory(image_shape, num_classes, **entry.arguments, **words)
        return network


def _stream(seed: int) -> int:
    """A generator's seed that no other use of ``seed`` shares."""
    return int.from_bytes(sha256(f"initial weights {seed}".encode()).digest()[:8], "little")


def _weights(config: RunConfig, entry: NetworkEntry | None) -> tuple[Weights, str]:
    if config.weights == "imagenet" and entry is not None:
        return imagenet_weights(entry.imagenet), entry.imagenet
    path = user_path(config.weights, "weights")
    state = read_weights(path)
    if entry is not None and entry.renames:
        state = import_named("model", entry.name, entry.renames)(state)
    return state, repr(str(path))


def _made_by_user(name: str, image_shape: Shape, num_classes: int, vocabulary: int) -> nn.Module:
    """Call a user's factory and check the network that it returns."""
    model = call_factory(
        "model",
        name,
        NETWORKS.find(name),
        {"image_shape": image_shape, "num_classes": num_classes, "vocabulary": vocabulary},
        "num_classes, and image_shape and vocabulary where it wants to",
    )
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model: {name!r} returned a {type(model).__name__}; it must return a Module"
        )
    for layer in model.modules():
        if getattr(layer, "inplace", False) is True:
            # torch.func.vmap cannot overwrite a tensor that has no batch dimension.
            setattr(layer, "inplace", False)  # noqa: B010, the type of an attribute is unknown
    model = model.to("cpu", torch.float32)
    _try_out(model, name, image_shape, num_classes, vocabulary)
    return model


def _try_out(
    model: nn.Module, name: str, image_shape: Shape, num_classes: int, vocabulary: int
) -> None:
    """Check a user's network and send two images through it, before a long run depends on it."""
    refuse_shared_tensors(model)
    check_vocabulary(model, name, vocabulary)
    try:
        head_of(model)
    except ValueError:
        raise InputError(
            f"model: {name!r} returned a network with neither a layer 'head' nor an nn.Linear; "
            "call its classifier 'head'"
        ) from None
    try:
        with evaluating(model), torch.no_grad():
            logits = model(blank(model, image_shape, 2))
    except Exception as error:
        raise InputError(
            f"model: the network of {name!r} fails on images of {list(image_shape)} "
            f"({reason_of(error)}); it must take {_batch(image_shape)}"
        ) from error
    shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != [2, num_classes]:
        raise InputError(
            f"model: the network of {name!r} gives {shape} for 2 images of {num_classes} classes; "
            f"it must give [2, {num_classes}]"
        )


def _batch(shape: Shape) -> str:
    """The shape of a batch, in words."""
    return "[B, C, H, W]" if len(shape) == 3 else str(["B", *shape]).replace("'", "")
