"""Functions and tensor methods for stacked values.

Each takes the arguments that the model's code passed, with ``Stacked`` instead of tensors.
Dimensions and shapes are those of a single client.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedadapt.client.stacking.value import Stacked, Unstackable

Value = Any  # Stacked, or a number, a shape, ... that the model computed from shapes


def flatten(x: Stacked, start_dim: int = 0, end_dim: int = -1) -> Stacked:
    rank = len(x.shape)
    return Stacked(x.plain().flatten(1 + start_dim % rank, 1 + end_dim % rank), x.clients)


def _reshape(x: Stacked, *shape: Any) -> Stacked:
    sizes = _several(shape)
    return Stacked(x.plain().reshape(x.clients, *sizes), x.clients)


def _mean(x: Stacked, dim: Any = None, keepdim: bool = False) -> Stacked:
    rank = len(x.shape)
    dims = range(rank) if dim is None else sorted(d % rank for d in _several((dim,)))
    if x.is_images and list(dims) == [2, 3]:
        pooled = x.with_tensor(x.tensor.mean((2, 3), keepdim=True))
        return pooled if keepdim else flatten(pooled, 1)
    return Stacked(x.plain().mean([1 + d for d in dims], keepdim=keepdim), x.clients)


def _several(given: Sequence[Any]) -> Sequence[int]:
    """Return the numbers of ``f(x, 1, 2)`` or ``f(x, (1, 2))``, which mean the same."""
    nested = len(given) == 1 and isinstance(given[0], (tuple, list))
    return given[0] if nested else given


def _cat(values: Sequence[Stacked], dim: int = 0) -> Stacked:
    first = values[0]
    dim %= len(first.shape)
    if dim == 1 and all(x.is_images for x in values):
        parts = [x.tensor.unflatten(1, (x.clients, -1)) for x in values]
        together = torch.cat(parts, 2).flatten(1, 2)
        return first.with_tensor(together.contiguous(memory_format=torch.channels_last))
    return Stacked(torch.cat([x.plain() for x in values], 1 + dim), first.clients)


def _permute(x: Stacked, *dims: Any) -> Stacked:
    rank = len(x.shape)
    return Stacked(x.plain().permute(0, *[1 + d % rank for d in _several(dims)]), x.clients)


def _transpose(x: Stacked, first: int, second: int) -> Stacked:
    rank = len(x.shape)
    return Stacked(x.plain().transpose(1 + first % rank, 1 + second % rank), x.clients)


def _chunk(x: Stacked, chunks: int, dim: int = 0) -> tuple[Stacked, ...]:
    parts = x.plain().chunk(chunks, 1 + dim % len(x.shape))
    return tuple(Stacked(part, x.clients) for part in parts)


def _expand(x: Stacked, *sizes: Any) -> Stacked:
    wanted = _several(sizes)
    ranked = _ranked(x.plain(), 1 + len(wanted))
    return Stacked(ranked.expand(x.clients, *wanted), x.clients)


def _matmul(first: Stacked, second: Stacked) -> Stacked:
    a, b = first.plain(), second.plain()
    rank = max(a.dim(), b.dim())
    if min(a.dim(), b.dim()) < 3:
        raise Unstackable("a product with a vector")
    return Stacked(torch.matmul(_ranked(a, rank), _ranked(b, rank)), first.clients)


def _softmax(x: Stacked, dim: int) -> Stacked:
    return Stacked(x.plain().softmax(1 + dim % len(x.shape)), x.clients)


def _size(x: Stacked, dim: int | None = None) -> Any:
    return x.shape if dim is None else x.shape[dim]


def _getitem(x: Value, index: Any) -> Value:
    if not isinstance(x, Stacked):
        return x[index]
    inner = index if isinstance(index, tuple) else (index,)
    return Stacked(x.plain()[(slice(None), *inner)], x.clients)


def _binary(function: Callable[[Any, Any], Any]) -> Callable[..., Value]:
    """Return a kernel for an operator with two arguments.

    It takes two stacked values, a stacked value and a number, or two numbers.
    """

    def kernel(first: Value, second: Value) -> Value:
        if isinstance(first, Stacked) and isinstance(second, Stacked):
            return _of_two(function, first, second)
        if isinstance(first, Stacked):
            return first.with_tensor(function(first.tensor, second))
        if isinstance(second, Stacked):
            return second.with_tensor(function(first, second.tensor))
        return function(first, second)

    return kernel


def _of_two(function: Callable[[Any, Any], Any], first: Stacked, second: Stacked) -> Stacked:
    """Apply an operator to two stacked values.

    The result has the images layout if both have it and the same channels; otherwise it is plain.
    """
    if first.is_images and second.is_images and first.shape[1] == second.shape[1]:
        return first.with_tensor(function(first.tensor, second.tensor))
    a, b = first.plain(), second.plain()
    rank = max(a.dim(), b.dim())
    return Stacked(function(_ranked(a, rank), _ranked(b, rank)), first.clients)


def _ranked(plain: Tensor, rank: int) -> Tensor:
    """View a plain value [D, ...] with ``rank`` dimensions beside that of the clients.

    Dimensions of length 1 are inserted after the first one, where broadcasting would add them for
    one client.
    """
    return plain.view(plain.shape[0], *[1] * (rank - plain.dim()), *plain.shape[1:])


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Stacked]:
    def kernel(x: Stacked, *options: Any, inplace: bool = False, **named: Any) -> Stacked:
        return x.with_tensor(function(x.tensor, *options, **named))

    return kernel


def _by_channel(function: Callable[..., Tensor]) -> Callable[..., Stacked]:
    def kernel(x: Stacked, *options: Any, **named: Any) -> Stacked:
        if named.get("return_indices"):
            raise Unstackable("indices of a pool")
        return Stacked(function(x.images(), *options, **named), x.clients, True)

    return kernel


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "truediv": operator.truediv,
    "floordiv": operator.floordiv,
}
_ACTIVATIONS: tuple[Callable[..., Tensor], ...] = (
    F.relu,
    F.relu6,
    F.leaky_relu,
    F.elu,
    F.selu,
    F.gelu,
    F.silu,
    F.mish,
    F.softplus,
    F.hardtanh,
    F.hardswish,
    F.hardsigmoid,
    torch.relu,
    torch.tanh,
    torch.sigmoid,
    torch.exp,
)
FUNCTIONS: dict[Any, Callable[..., Value]] = {
    getattr: lambda x, name: x.shape if name == "shape" else _no_attribute(name),
    operator.getitem: _getitem,
    torch.flatten: flatten,
    torch.reshape: _reshape,
    torch.mean: _mean,
    torch.cat: _cat,
    torch.concat: _cat,
    torch.permute: _permute,
    torch.transpose: _transpose,
    torch.chunk: _chunk,
    torch.matmul: _matmul,
    operator.matmul: _matmul,
    torch.softmax: _softmax,
    torch.add: _binary(operator.add),
    torch.sub: _binary(operator.sub),
    torch.mul: _binary(operator.mul),
    torch.div: _binary(operator.truediv),
    **{getattr(operator, name): _binary(each) for name, each in _ARITHMETIC.items()},
    **{getattr(operator, f"i{name}"): _binary(each) for name, each in _ARITHMETIC.items()},
    **{each: _elementwise(each) for each in _ACTIVATIONS},
    **{
        each: _by_channel(each)
        for each in (
            F.avg_pool2d,
            F.adaptive_avg_pool2d,
            F.max_pool2d,
            F.adaptive_max_pool2d,
        )
    },
}
METHODS: dict[str, Callable[..., Value]] = {
    "size": _size,
    "dim": lambda x: len(x.shape),
    "view": _reshape,
    "reshape": _reshape,
    "flatten": flatten,
    "contiguous": lambda x: x,
    "mean": _mean,
    "permute": _permute,
    "transpose": _transpose,
    "chunk": _chunk,
    "expand": _expand,
    "matmul": _matmul,
    "softmax": _softmax,
    "add": FUNCTIONS[torch.add],
    "sub": FUNCTIONS[torch.sub],
    "mul": FUNCTIONS[torch.mul],
    "div": FUNCTIONS[torch.div],
    "relu": FUNCTIONS[torch.relu],
    "tanh": FUNCTIONS[torch.tanh],
    "sigmoid": FUNCTIONS[torch.sigmoid],
}
IN_PLACE = frozenset(getattr(operator, f"i{name}") for name in _ARITHMETIC)


def _no_attribute(name: str) -> None:
    raise Unstackable(f"attribute {name} of a value")
