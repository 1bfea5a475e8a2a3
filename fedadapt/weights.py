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


def is_shared(weights: Mapping[str, Tensor]) -> bool:
    """Whether a stack [D, ...] is one model for all: ``repeat`` made it, or it has one row.

    The sender decides it, once, by sending an expanded view or a model for each client. Everything
    after that asks this function, which looks at the layout of the memory and never at numbers:
    models that are equal but lie apart are not shared. To compare them would take a pass over
    memory at each step of the way, and the answer could differ from one step to the next.
    """
    return all(len(t) == 1 or t.stride(0) == 0 for t in weights.values())


def is_finite(weights: Mapping[str, Tensor]) -> bool:
    """No NaN and no infinity anywhere."""
    return all(bool(t.isfinite().all()) for t in weights.values())


def num_bytes(weights: Mapping[str, Tensor]) -> int:
    """Payload size of the tensors in bytes, as they would travel."""
    return sum(t.numel() * t.element_size() for t in weights.values())
