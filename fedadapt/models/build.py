"""From a run's settings to a network with its initial weights."""

import logging
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path

import torch
from torch import Tensor, nn

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.models import catalog
from fedadapt.models.alexnet import alexnet
from fedadapt.models.cnn import cnn
from fedadapt.models.initial import imagenet_weights, load_weights, read_weights
from fedadapt.models.lenet import lenet
from fedadapt.models.mlp import mlp
from fedadapt.models.mobilenetv2 import mobilenetv2, torchvision_names
from fedadapt.models.mode import evaluating
from fedadapt.models.norms import has_batch_norm
from fedadapt.models.resnet import resnet18
from fedadapt.models.shared_tensors import refuse_shared_tensors
from fedadapt.models.squeezenet import squeezenet1_1
from fedadapt.models.vgg import vgg11, vgg11_bn_fc, vgg11_fc
from fedadapt.selectors import head_of
from fedadapt.weights import Weights

Shape = tuple[int, int, int]
Maker = Callable[[Shape, int], nn.Module]

FAMILIES: dict[str, Maker] = {
    "mlp": mlp,
    "lenet": lenet,
    "cnn": cnn,
    "vgg11": vgg11,
    "squeezenet1_1": squeezenet1_1,
    "alexnet": alexnet,
    "vgg11-fc": vgg11_fc,
    "vgg11-bn-fc": vgg11_bn_fc,
    "resnet18": resnet18,
}

log = logging.getLogger(__name__)


def build_model(config: RunConfig, image_shape: Shape, num_classes: int) -> nn.Module:
    """Make the network of ``config`` for images (C, H, W): on the CPU, float32, in training mode.

    Random weights are a function of ``config.seed`` alone; torch's global generator stays as it is.

    Raises:
        InputError: See ``catalog.check``; or the weights, or somebody's own factory, do not fit.

    """
    catalog.check(config)
    entry = catalog.find(config.model)
    model = make_network(config.model, image_shape, num_classes, seed=config.seed)
    if config.weights:
        state, source = _weights(config, entry)
        log.info("%s", load_weights(model, state, source))
    catalog.check_norms(config, has_batch_norm(model))
    return model.train()


def make_network(name: str, image_shape: Shape, num_classes: int, *, seed: int = 0) -> nn.Module:
    """Make a network by its name, or by ``module:factory``; its weights are drawn from ``seed``.

    Raises:
        InputError: An unknown name, images too small for it, or a factory that does not fit.

    """
    entry = catalog.find(name)
    if entry is not None:
        catalog.check_size(entry, *image_shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_stream(seed))
        if entry is None:
            return _from_factory(name, image_shape, num_classes)
        return _maker(name)(image_shape, num_classes)


def _stream(seed: int) -> int:
    """A generator's seed that no other use of ``seed`` shares."""
    return int.from_bytes(sha256(f"initial weights {seed}".encode()).digest()[:8], "little")


def _maker(model: str) -> Maker:
    if model in FAMILIES:
        return FAMILIES[model]
    return partial(mobilenetv2, width=catalog.mobilenet_width(model))


def _weights(config: RunConfig, entry: catalog.Entry | None) -> tuple[Weights, str]:
    if config.weights == "imagenet" and entry is not None:
        return imagenet_weights(entry.imagenet), entry.imagenet
    path = Path(config.weights).expanduser()
    state = read_weights(path)
    if config.model.startswith(catalog.MOBILENET):
        state = torchvision_names(state)
    return state, repr(str(path))


def _from_factory(name: str, image_shape: Shape, num_classes: int) -> nn.Module:
    """Call anyone's ``module:factory`` and make sure of what it returns."""
    module, function = catalog.factory_name(name)
    try:
        factory = getattr(import_module(module), function, None)
    except Exception as error:  # the module's own code may raise anything
        raise InputError(
            f"model: cannot import {module!r} ({_reason(error)}); it must be an installed package "
            "or lie on PYTHONPATH"
        ) from error
    if not callable(factory):
        raise InputError(f"model: {module!r} has no function {function!r}; {name!r} must name one")
    arguments = {"image_shape": image_shape, "num_classes": num_classes}
    if not _takes(factory, "image_shape"):
        del arguments["image_shape"]
    try:
        model = factory(**arguments)
    except Exception as error:
        raise InputError(
            f"model: {name!r} failed with {', '.join(f'{k}={v}' for k, v in arguments.items())} "
            f"({_reason(error)}); it takes num_classes, and image_shape where it wants to"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model: {name!r} returned a {type(model).__name__}; it must return a Module"
        )
    for layer in model.modules():
        if getattr(layer, "inplace", False) is True:
            # torch.func.vmap cannot overwrite what it did not batch.
            setattr(layer, "inplace", False)  # noqa: B010, the type of an attribute is unknown
    model = model.to("cpu", torch.float32)
    _try_out(model, name, image_shape, num_classes)
    return model


def _takes(factory: Callable[..., object], argument: str) -> bool:
    try:
        parameters = signature(factory).parameters
    except ValueError:  # written in C
        return True
    return argument in parameters or any(
        p.kind is Parameter.VAR_KEYWORD for p in parameters.values()
    )


def _try_out(model: nn.Module, name: str, image_shape: Shape, num_classes: int) -> None:
    """Check a foreign network and send two images through it, before a long run depends on it."""
    refuse_shared_tensors(model)
    try:
        head_of(model)
    except ValueError:
        raise InputError(
            f"model: {name!r} returned a network with neither a layer 'head' nor an nn.Linear; "
            "call its classifier 'head'"
        ) from None
    try:
        with evaluating(model), torch.no_grad():
            logits = model(torch.zeros(2, *image_shape))
    except Exception as error:
        raise InputError(
            f"model: the network of {name!r} fails on images of {list(image_shape)} "
            f"({_reason(error)}); it must take [B, C, H, W]"
        ) from error
    found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != [2, num_classes]:
        raise InputError(
            f"model: the network of {name!r} gives {found} for 2 images of {num_classes} classes; "
            f"it must give [2, {num_classes}]"
        )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
