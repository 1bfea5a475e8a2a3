"""Write trees of named tensors into one block of memory and read them again, without pickle."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

Tree = Mapping[Any, Any]
"""Mappings of mappings, with tensors as leaves."""

Path = tuple[str | int, ...]  # keys, outermost first

ALIGNMENT = 64  # bytes: a cache line


class Run(NamedTuple):
    """All tensors of one data type, stored one after the other."""

    dtype: str
    offset: int  # bytes
    counts: tuple[int, ...]  # elements of each tensor


class Layout(NamedTuple):
    """Where each tensor lies. Tensors of one data type lie together, so few copies are needed."""

    runs: tuple[Run, ...]
    leaves: tuple[tuple[Path, tuple[int, ...], int], ...]  # shape, run; in the order of the tree


def layout(tree: Tree) -> tuple[Layout, int]:
    """Return the layout of a tree, and the number of bytes it needs."""
    leaves, runs, end = list(_leaves(tree)), [], 0
    kinds = {dtype: i for i, dtype in enumerate(dict.fromkeys(t.dtype for _, t in leaves))}
    for dtype in kinds:
        counts = tuple(t.numel() for _, t in leaves if t.dtype == dtype)
        runs.append(Run(str(dtype).removeprefix("torch."), end, counts))
        end += -(-sum(counts) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
    shapes = tuple((path, tuple(tensor.shape), kinds[tensor.dtype]) for path, tensor in leaves)
    return Layout(tuple(runs), shapes), end


@torch.no_grad()
def write(tree: Tree, tree_layout: Layout, memory: Any) -> None:
    """Copy the tensors of a tree into ``memory``, a writable buffer."""
    parts: list[list[Tensor]] = [[] for _ in tree_layout.runs]
    for (_, tensor), (_, _, index) in zip(_leaves(tree), tree_layout.leaves, strict=True):
        parts[index].append(tensor.reshape(-1))
    for run, tensors in zip(tree_layout.runs, parts, strict=True):
        if sum(run.counts):
            torch.cat(tensors, out=_numbers(run, memory))


def read(tree_layout: Layout, memory: Any) -> dict[Any, Any]:
    """Return the tree; its tensors are views and keep ``memory`` alive."""
    parts = [iter(_numbers(run, memory).split(run.counts)) for run in tree_layout.runs]
    tree: dict[Any, Any] = {}
    for path, shape, index in tree_layout.leaves:
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = next(parts[index]).view(shape)
    return tree


def _leaves(tree: Tree, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    for key, inner in tree.items():
        if isinstance(inner, Tensor):
            yield (*path, key), inner
        else:
            yield from _leaves(inner, (*path, key))


def _numbers(run: Run, memory: Any) -> Tensor:
    dtype, count = getattr(torch, run.dtype), sum(run.counts)
    if not count:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=count, offset=run.offset)
