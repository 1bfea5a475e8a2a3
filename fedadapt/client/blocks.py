"""A network cut into blocks of weights, and which of these fit into a budget."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod

import torch
from torch import Tensor

from fedadapt.weights import Weights

UNITS = 2**14  # in which a capacity is counted: up to so many scalars the best choice is exact
STEPS = 2**20  # in which an importance is counted, so that sums of them are exact


@dataclass(frozen=True)
class Blocks:
    """Blocks of tensors, each flattened as it is stored; the first of a tensor may be protected.

    A choice of blocks is [D, blocks], 1 for those that are in it, for clients that are computed
    together.
    """

    shapes: Mapping[str, tuple[int, ...]]
    lengths: Mapping[str, tuple[int, ...]]  # of the blocks of each tensor, in its order
    protected: tuple[bool, ...]  # of all blocks, in the order of ``lengths``

    @staticmethod
    def of(shapes: Mapping[str, tuple[int, ...]], parts: int, least: float) -> "Blocks":
        """Cut each tensor into a first block, which is protected, and ``parts`` - 1 equal ones.

        Args:
            shapes: Of the tensors, by name.
            parts: Blocks of a tensor; of a small one fewer, for an empty block is none.
            least: Share of a tensor that its first block is, rounded down.

        """
        lengths, protected = {}, []
        for name, shape in shapes.items():
            size = prod(shape)
            first = int(size * least)
            each, more = divmod(size - first, parts - 1)
            found = [(first, True), *((each + (i < more), False) for i in range(parts - 1))]
            found = [(length, kept) for length, kept in found if length]
            lengths[name] = tuple(length for length, _ in found)
            protected += [kept for _, kept in found]
        return Blocks(dict(shapes), lengths, tuple(protected))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Scalars of each block."""
        return tuple(length for found in self.lengths.values() for length in found)

    @property
    def total(self) -> int:
        """Scalars of all blocks."""
        return sum(self.sizes)

    def spread(self, values: Tensor) -> Weights:
        """Give each scalar of the tensors, [D, ...], the value of its block, of [D, blocks]."""
        found, place = {}, 0
        for name, lengths in self.lengths.items():
            own = values[:, place : place + len(lengths)]
            each = own.repeat_interleave(torch.tensor(lengths, device=values.device), 1)
            found[name] = each.view(len(values), *self.shapes[name])
            place += len(lengths)
        return found

    def share(self, chosen: Tensor) -> Tensor:
        """Return the share of all scalars that a choice has: [D], float64."""
        sizes = torch.tensor(self.sizes, dtype=torch.float64, device=chosen.device)
        return (chosen != 0).double() @ sizes / self.total

    def best(self, importance: Tensor, capacity: int, *, greedy: bool = False) -> Tensor:
        """Choose the protected blocks and those that are most important together, [D, blocks].

        Args:
            importance: Of each block, [D, blocks], in [0, 1].
            capacity: Scalars that all of them may have at most.
            greedy: Take one block after the other that still fits, the most important one first.

        """
        free = [i for i, kept in enumerate(self.protected) if not kept]
        sizes = [self.sizes[i] for i in free]
        room = capacity - sum(s for s, kept in zip(self.sizes, self.protected, strict=True) if kept)
        chosen = torch.ones_like(importance)
        if sum(sizes) > room:
            choose = greedy_choice if greedy else best_choice
            chosen[:, free] = choose(sizes, importance[:, free], max(room, 0)).to(chosen)
        return chosen


def best_choice(sizes: Sequence[int], importance: Tensor, capacity: int) -> Tensor:
    """Return the most important of all choices that fit, [D, blocks]: the 0-1 knapsack.

    A dynamic programme over capacities. Beyond ``UNITS`` scalars sizes are counted in units of
    several, rounded up: the choice still fits, and the best one of those that fill the last units
    may be missed.
    """
    unit = max(1, ceil(capacity / UNITS))
    sizes, capacity = [ceil(size / unit) for size in sizes], capacity // unit
    kind = torch.int32 if len(sizes) * STEPS < 2**31 else torch.int64
    values = _rounded(importance).to(kind)
    best = values.new_zeros(len(values), capacity + 1)
    better = []  # with the block than without it, for each capacity: [D, capacity + 1]
    for value, size in zip(values.unbind(1), sizes, strict=True):
        better.append(torch.zeros_like(best, dtype=torch.bool))
        if size <= capacity:
            without, with_it = best[:, size:], best[:, : capacity + 1 - size] + value.unsqueeze(1)
            better[-1][:, size:] = with_it > without
            without.copy_(torch.maximum(with_it, without))
    chosen = torch.zeros_like(values, dtype=torch.bool)
    room = torch.full((len(values), 1), capacity, device=values.device)
    for block in reversed(range(len(sizes))):
        taken = better[block].gather(1, room)
        chosen[:, block] = taken[:, 0]
        room = room - taken * sizes[block]
    return chosen


def greedy_choice(sizes: Sequence[int], importance: Tensor, capacity: int) -> Tensor:
    """Return what fits of the blocks in the order of their importance, [D, blocks]."""
    values = _rounded(importance)
    order = values.argsort(dim=1, descending=True, stable=True)
    room = torch.full((len(values),), capacity, device=values.device)
    size = torch.tensor(sizes, device=values.device)
    chosen = torch.zeros_like(values, dtype=torch.bool)
    for block in order.unbind(1):
        fits = size[block] <= room
        chosen.scatter_(1, block.unsqueeze(1), fits.unsqueeze(1))
        room = room - fits * size[block]
    return chosen


def _rounded(importance: Tensor) -> Tensor:
    """Whole numbers, so that rounding errors of equal importances decide nothing."""
    return (importance.double() * STEPS).round()
