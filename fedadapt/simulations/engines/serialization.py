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
    """All tensors of one data type, stored one after the other, or row by row side by side."""

    dtype: str
    offset: int  # bytes
    counts: tuple[int, ...]  # elements of each tensor, or of a row of it
    rows: int = 1  # of each tensor, if they are side by side


class Layout(NamedTuple):
    """Where each tensor lies. Tensors of one data type lie together, so few copies are needed."""

    runs: tuple[Run, ...]
    leaves: tuple[tuple[Path, tuple[int, ...], int], ...]  # shape, run; in the order of the tree


def layout(tree: Tree, *, side_by_side: bool = False) -> tuple[Layout, int]:
    """Return the layout of a tree, and the number of bytes it needs.

    Args:
        side_by_side: Store stacks with equal numbers of clients client by client, so that all
            tensors of a client lie together: whoever sums them goes through memory once.

    """
    leaves, runs, end = list(_leaves(tree)), [], 0
    kinds = {dtype: i for i, dtype in enumerate(dict.fromkeys(t.dtype for _, t in leaves))}
    for dtype in kinds:
        tensors = [t for _, t in leaves if t.dtype == dtype]
        lengths = {len(t) if t.dim() else 1 for t in tensors}
        rows = max(1, *lengths) if side_by_side and len(lengths) == 1 else 1
        counts = tuple(t.numel() // rows for t in tensors)
        runs.append(Run(str(dtype).removeprefix("torch."), end, counts, rows))
        end += -(-rows * sum(counts) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
    shapes = tuple((path, tuple(tensor.shape), kinds[tensor.dtype]) for path, tensor in leaves)
    return Layout(tuple(runs), shapes), end


@torch.no_grad()
def write(tree: Tree, tree_layout: Layout, memory: Any) -> None:
    """Copy the tensors of a tree into ``memory``, a writable buffer."""
    parts: list[list[Tensor]] = [[] for _ in tree_layout.runs]
    for (_, tensor), (_, _, index) in zip(_leaves(tree), tree_layout.leaves, strict=True):
        parts[index].append(tensor.reshape(tree_layout.runs[index].rows, -1))
    for run, tensors in zip(tree_layout.runs, parts, strict=True):
        if sum(run.counts):
            torch.cat(tensors, dim=1, out=_numbers(run, memory))


def read(tree_layout: Layout, memory: Any) -> dict[Any, Any]:
    """Return the tree; its tensors are views and keep ``memory`` alive."""
    parts = [iter(_numbers(run, memory).split(run.counts, dim=1)) for run in tree_layout.runs]
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
    """The rows of a run, [rows, elements of one]."""
    dtype, count = getattr(torch, run.dtype), run.rows * sum(run.counts)
    if not count:
        return torch.empty(run.rows, 0, dtype=dtype)
    numbers = torch.frombuffer(memory, dtype=dtype, count=count, offset=run.offset)
    return numbers.view(run.rows, -1)
