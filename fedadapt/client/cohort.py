"""The clients of a round, computed together. A single client is a cohort of one."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedadapt.client.schedule import Part, Schedule, order
from fedadapt.datasets.benchmark import Examples, Scaling, Split
from fedadapt.errors import InputError
from fedadapt.models.mode import evaluating
from fedadapt.objectives import Batch, Outputs
from fedadapt.selectors import head_of
from fedadapt.weights import Weights, row, stack

if TYPE_CHECKING:
    from fedadapt.client.stacking.affine_chain import AffineChain
    from fedadapt.client.stacking.sink import Sink

__all__ = ["Cohort", "Execution", "Network", "Part", "Schedule"]

SCALED_AT_ONCE = 2**24  # numbers: 64 MiB
Execution = Literal["sequential", "per-client", "stacked-kernels", "vmap"]  # the last two: stacked


class Network(Protocol):
    """A network for stacks of clients, of weights [D, ...] and inputs [D, B, ...].

    ``tail`` is what it ends with, where the derivative of that is known by hand; ``chain`` is the
    same where it is all of the network. ``generators`` are the clients' own, for dropout; ``seen``
    is called with (path, x) for what enters each batch-norm layer.
    """

    tail: "AffineChain | None"
    chain: "AffineChain | None"

    def __call__(
        self,
        weights: Weights,
        inputs: Tensor,
        seen: Callable[[str, Tensor], None] | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """The logits alone."""

    def outputs(
        self,
        weights: Weights,
        inputs: Tensor,
        seen: Callable[[str, Tensor], None] | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Outputs:
        """The logits, and what enters the head."""

    def below_tail(
        self,
        weights: Weights,
        inputs: Tensor,
        generators: Sequence[torch.Generator] | None = None,
        sinks: Mapping[str, "Sink"] | None = None,
    ) -> Tensor:
        """What enters the tail, [D, B, ...]; there must be one. ``sinks`` are by weight."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """Some clients' data, the architecture they share and how to compute them.

    A client's result depends on (seed, round, client) alone, never on who else is in its cohort.
    """

    model: nn.Module  # the architecture, on meta; its own weights are never read
    clients: tuple[int, ...]
    splits: tuple[Split, ...]  # one a client
    scaling: Callable[[Tensor], Tensor]  # stored images -> network input
    seed: int = 0
    round: int = 0
    states: tuple[Mapping[str, Weights], ...] = ()  # what each client kept from before; () for none
    stacked: bool = False  # compute all clients at once, or one after another
    network: Network | None = None  # the model made of kernels; None: vmap, or the model itself
    autocast: torch.dtype | None = None  # arithmetic of the forward pass; None: as the weights
    domains: tuple[int, ...] = ()  # each client's, by number; () where nobody asks
    unlabelled: Mapping[int, Tensor] = field(default_factory=dict)  # client -> stored images

    def __len__(self) -> int:
        return len(self.clients)

    def only(self, index: int) -> "Cohort":
        """The cohort of one client, by position."""
        return replace(
            self,
            clients=self.clients[index : index + 1],
            splits=self.splits[index : index + 1],
            states=self.states[index : index + 1],
            domains=self.domains[index : index + 1],
        )

    @property
    def num_examples(self) -> Tensor:
        """Training examples of each client: [D], float64."""
        return torch.tensor([len(s.train) for s in self.splits], dtype=torch.float64)

    def part(self, name: Part) -> list[Examples]:
        return [getattr(split, name) for split in self.splits]

    def has(self, name: str) -> Tensor:
        """Which clients kept the part: [D], bool."""
        if not self.states:
            return torch.zeros(len(self), dtype=torch.bool)
        return torch.tensor([name in states for states in self.states], dtype=torch.bool)

    def state(self, name: str, default: Weights) -> Weights:
        """The part each client kept, stacked; the row of ``default`` where it kept none."""
        if not self.has(name).any():
            return default
        return stack(
            [
                states[name] if name in states else row(default, d)
                for d, states in enumerate(self.states)
            ]
        )

    def without_labels(self) -> "Cohort":
        """The cohort for what reads no labels: unlabelled images join those for train and adapt.

        Their label is -1, which is no class.
        """
        if not self.unlabelled:
            return self

        def extended(examples: Examples, more: Tensor) -> Examples:
            unknown = examples.labels.new_full((len(more),), -1)
            return Examples(
                torch.cat([examples.inputs, more]), torch.cat([examples.labels, unknown])
            )

        splits = [
            split._replace(
                train=extended(split.train, self.unlabelled[client]),
                adapt=extended(split.adapt, self.unlabelled[client]),
            )
            if client in self.unlabelled
            else split
            for client, split in zip(self.clients, self.splits, strict=True)
        ]
        return replace(self, splits=tuple(splits), unlabelled={})

    def subset(self, share: float = 1.0, purpose: str = "subset", most: int = 0) -> "Cohort":
        """The same clients with a random part of their training images, at least one.

        Args:
            share: Of each client's training images, in (0, 1], rounded to the nearest number.
            purpose: Names the random stream: equal purposes draw equal images in a round.
            most: No client has more images than this; 0 for no limit.

        Raises:
            InputError: The share is outside (0, 1].

        """
        if not 0 < share <= 1:
            raise InputError(f"subset: share {share:g}; above 0, at most 1")
        splits = []
        for d, split in enumerate(self.splits):
            count = max(1, round(share * len(split.train)))
            count = min(count, most) if most else count
            drawn = self.generator(d, purpose).permutation(len(split.train))[:count]
            chosen = torch.from_numpy(np.sort(drawn)).to(split.train.labels.device)
            train = Examples(split.train.inputs[chosen], split.train.labels[chosen])
            splits.append(split._replace(train=train))
        return replace(self, splits=tuple(splits))

    def logits(
        self, weights: Weights, inputs: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        """Logits [D, B, num_classes] of each client's ``weights`` [D, ...] on its ``inputs``.

        In training mode batch norm updates its statistics in ``weights`` in place.

        Args:
            generators: One a client, for dropout in kernels; the model itself draws from torch's.

        """
        return self.outputs(weights, inputs, generators).logits

    @property
    def chain(self) -> "AffineChain | None":
        """The network where its derivative is known by hand and its arithmetic is the weights'."""
        if self.network is None or self.autocast is not None:
            return None
        return self.network.chain if self.stacked or len(self) == 1 else None

    @property
    def tail(self) -> "AffineChain | None":
        """What the network ends with, where its derivative is known by hand.

        It computes in the weights' arithmetic also where what is below it does not, which is the
        faster way for few images: large weights would be converted in every step. A network that
        is nothing else has no tail then.
        """
        if self.network is None or not (self.stacked or len(self) == 1):
            return None
        return self.chain if self.network.chain is not None else self.network.tail

    def below_tail(
        self,
        weights: Weights,
        inputs: Tensor,
        generators: Sequence[torch.Generator] | None = None,
        sinks: Mapping[str, "Sink"] | None = None,
    ) -> Tensor:
        """What enters the tail, [D, B, ...]; the arguments are those of ``logits``.

        Args:
            weights: Of each client, and so are ``inputs`` and ``generators``.
            sinks: Where gradients may go, by weight; autograd finds those of the unfilled ones.

        """
        assert self.network is not None
        if self.autocast is None:
            return self.network.below_tail(weights, inputs, generators, sinks)
        with torch.autocast(inputs.device.type, self.autocast):
            return self.network.below_tail(weights, inputs, generators).float()

    def features(self, weights: Weights, inputs: Tensor) -> Tensor:
        """What enters the head, in evaluation mode and without gradients: [D, B, ...].

        Args:
            inputs: Scaled, [D, B, ...]; ``weights`` has a row for each of their clients.

        Raises:
            InputError: The network has no head.

        """
        with evaluating(self.model), torch.no_grad():
            return self.outputs(weights, inputs).features

    def outputs(
        self, weights: Weights, inputs: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Outputs:
        """``logits``, and what entered the head on the way."""
        if self.network is not None and (self.stacked or len(self) == 1):
            if self.autocast is None:
                return self.network.outputs(weights, inputs, generators=generators)
            with torch.autocast(inputs.device.type, self.autocast):
                outputs = self.network.outputs(weights, inputs, generators=generators)
            return outputs._replace(logits=outputs.logits.float())
        with _entering(self._head) as entered:

            def of_one(weights: Weights, inputs: Tensor) -> tuple[Tensor, ...]:
                entered.clear()
                return self.forward(weights, inputs), *entered[-1:]

            if len(self) == 1:  # without the price of stacking
                alone = {n: t.squeeze(0) for n, t in weights.items()}
                stacked = tuple(t.unsqueeze(0) for t in of_one(alone, inputs.squeeze(0)))
            elif not self.stacked:
                each = [of_one(row(weights, d), x) for d, x in enumerate(inputs)]
                stacked = tuple(torch.stack(parts) for parts in zip(*each, strict=True))
            else:
                stacked = vmap(of_one, randomness="different")(weights, inputs)
            entered.clear()
        return Outputs(stacked[0], stacked[1] if len(stacked) > 1 else None)

    @cached_property
    def _head(self) -> nn.Module | None:
        try:
            return head_of(self.model)
        except ValueError:
            return None

    def forward(self, weights: Weights, inputs: Tensor) -> Tensor:
        """Logits [B, num_classes] of one client's ``weights``, in the cohort's arithmetic."""
        if inputs.dim() == 4 and not self.stacked:  # convolutions alone are faster channels last
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if self.autocast is None:
            return functional_call(self.model, weights, (inputs,))
        with torch.autocast(inputs.device.type, self.autocast):
            return functional_call(self.model, weights, (inputs,)).float()

    def generator(self, index: int, purpose: str) -> np.random.Generator:
        """The random stream of one client for one purpose in this round."""
        key = (self.seed, zlib.crc32(purpose.encode()), self.round, self.clients[index])
        return np.random.default_rng(key)

    def steps(self, schedule: Schedule) -> Iterator[list[tuple[list[int], Batch]]]:
        """The steps of all clients, in lockstep.

        Clients have different numbers of images, so a step is a list of groups: positions of the
        clients whose batch has one size, and that batch with a leading client axis. A client that
        is done appears in no further step.
        """
        examples = self.part(schedule.part)
        generators = (self.generator(d, schedule.purpose) for d in range(len(self)))
        rows, edges = order([len(e) for e in examples], schedule, generators)
        images, labels = self._pooled(examples)
        purpose, augmentation = f"{schedule.purpose}/augmentation", schedule.augmentation
        views = [self.generator(d, purpose) for d in range(len(self))] if augmentation else []
        for begin, end in edges:
            groups = []
            for count in dict.fromkeys((end - begin).tolist()):
                if count:
                    members = np.flatnonzero(end - begin == count)
                    own = rows[begin[members, None] + np.arange(count)]
                    batch = _batch(images, labels, own)
                    if augmentation is not None:
                        drawing = [views[d] for d in members]
                        batch = batch._replace(inputs=augmentation(batch.inputs, drawing))
                    groups.append((members.tolist(), batch))
            yield groups

    def _pooled(self, examples: list[Examples]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """All clients' images, one after the other: how to get scaled rows of them; their labels.

        They are scaled once, and not step by step, where they are few enough, and scaling draws
        nothing: experts' training views are other ones at every step.
        """
        stored, labels = examples[0].inputs, examples[0].labels
        if len(examples) > 1:
            stored = torch.cat([e.inputs for e in examples])
            labels = torch.cat([e.labels for e in examples])
        if stored.numel() > SCALED_AT_ONCE or not isinstance(self.scaling, Scaling):
            return lambda rows: self.scaling(_rows(stored, rows)), labels
        scaled = self.scaling(stored)
        return partial(_rows, scaled), labels


@contextmanager
def _entering(head: nn.Module | None) -> Iterator[list[Tensor]]:
    """Record what enters ``head`` while the model computes, call after call.

    A linear layer leaves it as it is; a head of several layers may write over it, so it is copied.
    """
    entered: list[Tensor] = []
    if head is None:
        yield entered
        return

    def record(_head: nn.Module, inputs: tuple[Any, ...]) -> None:
        for x in inputs[:1]:
            entered.append(x if isinstance(head, nn.Linear) else x.clone())

    hook = head.register_forward_pre_hook(record)
    try:
        yield entered
    finally:
        hook.remove()


def _batch(images: Callable[[Tensor], Tensor], labels: Tensor, rows: np.ndarray) -> Batch:
    """The images at each member's rows [D, B], gathered at once."""
    places = torch.from_numpy(rows).to(labels.device)
    return Batch(images(places), _rows(labels, places))


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """The rows [D, B] of a tensor [N, ...]: [D, B, ...]."""
    return tensor.index_select(0, rows.flatten()).unflatten(0, rows.shape)
