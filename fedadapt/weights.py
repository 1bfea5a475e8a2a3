"""Arithmetic on named tensors: what a ``state_dict`` would do if it were a vector."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Weights = dict[str, Tensor]
"""Parameters and buffers by dotted name; for a cohort, each with a leading client axis [D, ...]."""


def stack(models: Sequence[Mapping[str, Tensor]]) -> Weights:
    """One model per client -> one stacked model: each tensor becomes [D, ...]."""
    return {name: torch.stack([m[name] for m in models]) for name in models[0]}


def repeat(weights: Mapping[str, Tensor], num_clients: int) -> Weights:
    """Give every client ``weights``: each tensor becomes [D, ...], a view that costs no memory."""
    return {n: t.unsqueeze(0).expand(num_clients, *t.shape) for n, t in weights.items()}


def row(weights: Mapping[str, Tensor], index: int) -> Weights:
    """The model of one client of a stack: [D, ...] -> [...]."""
    return {n: t[index] for n, t in weights.items()}


def rows(weights: Mapping[str, Tensor], first: int, last: int) -> Weights:
    """Clients ``first`` to ``last`` (excluded) of a stack, as views."""
    return {n: t[first:last] for n, t in weights.items()}


def chosen(weights: Mapping[str, Tensor], members: Sequence[int]) -> Weights:
    """Some clients of a stack, in ascending order; all of them without a copy."""
    everybody = all(len(t) == len(members) for t in weights.values())
    return dict(weights) if everybody else {n: t[members] for n, t in weights.items()}


def is_shared(weights: Mapping[str, Tensor]) -> bool:
    """Whether a stack [D, ...] is one model for all: ``repeat`` made it, or it has one row.

    The sender decides it, once, by sending an expanded view or a model for each client. Everything
    after that asks this function, which looks at the layout of the memory and never at numbers:
    models that are equal but lie apart are not shared. To compare them would take a pass over
    memory at each step of the way, and the answer could differ from one step to the next.
    """
    return all(len(t) == 1 or t.stride(0) == 0 for t in weights.values())


def side_by_side(weights: Mapping[str, Tensor]) -> Tensor | None:
    """The stack as one matrix [D, P], if its tensors lie side by side in one memory, in this order.

    It is a view; None where they do not. Workers send their answers in this way.
    """
    tensors = list(weights.values())
    if not tensors or not all(t.dim() for t in tensors):
        return None
    first, end = tensors[0], tensors[0].storage_offset()
    length = sum(t.numel() for t in tensors) // max(1, len(first))
    for t in tensors:
        if (
            t.dtype != first.dtype
            or len(t) != len(first)
            or t.stride(0) != length
            or t.storage_offset() != end
            or not t[:1].is_contiguous()
            or t.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
        ):
            return None
        end += t[:1].numel()
    return first.as_strided((len(first), length), (length, 1))


def is_finite(weights: Mapping[str, Tensor]) -> bool:
    """No NaN and no infinity anywhere."""
    return all(_is_finite(t) for t in weights.values())


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return bool(tensor.isfinite().all())
    # In one pass, without a tensor of truths; either is NaN where any value is.
    return bool(torch.stack(tensor.aminmax()).isfinite().all())


def num_bytes(weights: Mapping[str, Tensor]) -> int:
    """Payload size of the tensors in bytes, as they would travel."""
    return sum(t.numel() * t.element_size() for t in weights.values())
