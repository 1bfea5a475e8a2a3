"""The layers that have stacked kernels."""

import copy
from collections.abc import Callable

import torch.nn.functional as F
from torch import nn

from fedadapt.client.stacking.clamp import Clamp, clamp_
from fedadapt.client.stacking.convolution import convolution
from fedadapt.client.stacking.dropout import dropout
from fedadapt.client.stacking.functions import flatten
from fedadapt.client.stacking.image_stack import one_product
from fedadapt.client.stacking.linear import linear
from fedadapt.client.stacking.norm import batch_norm
from fedadapt.client.stacking.recurrent import gru
from fedadapt.client.stacking.series import POOLS_1D, convolution_1d, pool_1d
from fedadapt.client.stacking.tokens import embedding
from fedadapt.client.stacking.value import Call, Stacked, Unstackable

Kernel = Callable[[Call, Stacked], Stacked | tuple[Stacked, ...]]

ELEMENTWISE: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Tanh,
    nn.Sigmoid,
    nn.LogSigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Hardtanh,
    nn.Hardswish,
    nn.Hardsigmoid,
)
POOLS: tuple[type[nn.Module], ...] = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
FOLDING: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.MaxPool2d,
)
"""Layers into whose kernel a ReLU that follows is folded."""
OTHERS: tuple[type[nn.Module], ...] = (
    nn.Identity,
    nn.Flatten,
    nn.Conv1d,
    nn.Conv2d,
    nn.Embedding,
    nn.GRU,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
)
KNOWN = frozenset((*ELEMENTWISE, *POOLS, *POOLS_1D, *FOLDING, *OTHERS))
"""Looked up by exact type, because a subclass may compute something else."""


def kernel_of(path: str, layer: nn.Module, clamp: Clamp | None = None) -> Kernel:
    """Return the stacked kernel of a layer of a ``KNOWN`` type.

    Args:
        path: The dotted name of the layer in its model.
        clamp: An activation that the kernel applies to its result; for ``FOLDING`` types only.

    Raises:
        Unstackable: There is no kernel for a layer with these settings.

    """
    if type(layer) is nn.Linear:
        return one_product(path, layer, clamp, linear(path, layer, clamp))
    if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d):
        return batch_norm(path, layer, clamp)  # type: ignore[arg-type]
    if type(layer) is nn.Conv2d:
        return one_product(path, layer, None, convolution(path, layer))
    if type(layer) is nn.Conv1d:
        return convolution_1d(path, layer)
    if type(layer) in POOLS_1D:
        return pool_1d(path, layer)
    if type(layer) is nn.Embedding:
        return embedding(path, layer)
    if type(layer) is nn.GRU:
        return gru(path, layer)
    if type(layer) in (nn.Dropout, nn.Dropout1d, nn.Dropout2d):
        return dropout(layer)  # type: ignore[arg-type]
    if type(layer) is nn.Flatten:
        return lambda call, x: flatten(x, layer.start_dim, layer.end_dim)
    if type(layer) is nn.Identity:
        return lambda call, x: x
    if type(layer) is nn.GroupNorm:
        return _group_norm(path, layer)
    if type(layer) is nn.LayerNorm:
        return _layer_norm(path, layer)
    if type(layer) in POOLS:
        return _pool(path, layer, clamp)
    if type(layer) in ELEMENTWISE:
        return _elementwise(layer)
    raise Unstackable(f"{path}: no kernel for {type(layer).__name__}")


def _elementwise(layer: nn.Module) -> Kernel:
    layer = copy.copy(layer)
    if hasattr(layer, "inplace"):
        layer.inplace = False  # type: ignore[assignment]
    return lambda call, x: x.with_tensor(layer(x.tensor))


def _pool(path: str, layer: nn.Module, clamp: Clamp | None) -> Kernel:
    """Return a kernel that pools each channel by itself, those of all clients together."""
    if getattr(layer, "return_indices", False):
        raise Unstackable(f"{path}: indices of a pool")
    if type(layer) is nn.AdaptiveAvgPool2d and layer.output_size in (1, (1, 1)):
        return _global_average

    def kernel(call: Call, x: Stacked) -> Stacked:
        y = layer(x.images())
        return Stacked(y if clamp is None else clamp_(y, clamp), call.clients, True)

    return kernel


def _global_average(call: Call, x: Stacked) -> Stacked:
    images = x.images()
    if images.shape[2:] != (1, 1):
        images = images.mean((2, 3), keepdim=True)
    return Stacked(images, call.clients, True)


def _group_norm(path: str, layer: nn.GroupNorm) -> Kernel:
    def kernel(call: Call, x: Stacked) -> Stacked:
        plain = x.plain()
        y = F.group_norm(plain.flatten(0, 1), layer.num_groups, eps=layer.eps).view(plain.shape)
        if layer.affine:
            shape = (call.clients, 1, -1, *[1] * (plain.dim() - 3))
            w, b = (call.weights[f"{path}.{name}"].reshape(shape) for name in ("weight", "bias"))
            y = y * w + b
        return Stacked(y, call.clients)

    return kernel


def _layer_norm(path: str, layer: nn.LayerNorm) -> Kernel:
    def kernel(call: Call, x: Stacked) -> Stacked:
        plain = x.plain()
        y = F.layer_norm(plain, layer.normalized_shape, eps=layer.eps)
        between = [1] * (plain.dim() - 1 - len(layer.normalized_shape))
        for name in ("weight", "bias"):
            if (own := getattr(layer, name)) is not None:
                given = call.weights[f"{path}.{name}"]
                given = given.reshape(call.clients, *between, *own.shape)
                y = y * given if name == "weight" else y + given
        return Stacked(y, call.clients)

    return kernel
