"""The clients of a round, computed together. A single client is a cohort of one."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fedadapt.datasets.benchmark import Examples, Scaling, Split
from fedadapt.objectives import Batch
from fedadapt.weights import Weights, row, stack

Part = Literal["train", "adapt"]
SCALED_AT_ONCE = 2**24  # numbers: 64 MiB
Execution = Literal["sequential", "per-client", "stacked-kernels", "vmap"]  # the last two: stacked
Network = Callable[
    ..., Tensor
]  # a stacked network: (weights [D, ...], inputs [D, B, ...]) -> logits


class Schedule(NamedTuple):
    """Which images a client goes through, in which portions, how often."""

    batch_size: int
    epochs: int = 1
    part: Part = "train"
    purpose: str = "train"  # names the random stream: equal purposes draw equal orders


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

    def __len__(self) -> int:
        return len(self.clients)

    def only(self, index: int) -> "Cohort":
        """The cohort of one client, by position."""
        return replace(
            self,
            clients=self.clients[index : index + 1],
            splits=self.splits[index : index + 1],
            states=self.states[index : index + 1],
        )

    @property
    def num_examples(self) -> Tensor:
        """Training examples of each client: [D], float64."""
        return torch.tensor([len(s.train) for s in self.splits], dtype=torch.float64)

    def part(self, name: Part) -> list[Examples]:
        return [getattr(split, name) for split in self.splits]

    def state(self, name: str, otherwise: Weights) -> Weights:
        """The part each client kept, stacked; the row of ``otherwise`` where it kept none."""
        if not any(name in states for states in self.states):
            return otherwise
        rows = [{n: t[d] for n, t in otherwise.items()} for d in range(len(self))]
        return stack([states.get(name, own) for states, own in zip(self.states, rows, strict=True)])

    def logits(
        self, weights: Weights, inputs: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        """Logits [D, B, num_classes] of each client's ``weights`` [D, ...] on its ``inputs``.

        In training mode batch norm updates its statistics in ``weights`` in place.

        Args:
            generators: One a client, for dropout in kernels; the model itself draws from torch's.

        """
        if self.network is None and len(self) == 1:  # without the price of stacking
            alone = {n: t.squeeze(0) for n, t in weights.items()}
            return self.forward(alone, inputs.squeeze(0)).unsqueeze(0)
        if not self.stacked and len(self) > 1:
            each = [self.forward(row(weights, d), x) for d, x in enumerate(inputs)]
            return torch.stack(each)
        if self.network is None:
            return vmap(self.forward, randomness="different")(weights, inputs)
        if self.autocast is None:
            return self.network(weights, inputs, generators=generators)
        with torch.autocast(inputs.device.type, self.autocast):
            return self.network(weights, inputs, generators=generators).float()

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
        rows, edges = self._order([len(e) for e in examples], schedule)
        images, labels = self._pooled(examples)
        for begin, end in edges:
            groups = []
            for count in dict.fromkeys((end - begin).tolist()):
                if count:
                    members = np.flatnonzero(end - begin == count)
                    own = rows[begin[members, None] + np.arange(count)]
                    groups.append((members.tolist(), _batch(images, labels, own)))
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

    def _order(self, sizes: Sequence[int], schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
        """Client by client its images, shuffled epoch after epoch, and where batches begin and end.

        Images are numbered through all clients. Begins and ends, [steps, 2, D], are places in their
        order, and equal where a client is done.
        """
        if not all(sizes):
            raise ValueError(f"no {schedule.part} images")
        cuts = {size: _cuts(size, schedule) for size in set(sizes)}
        edges = np.zeros((max(map(len, cuts.values())), 2, len(sizes)), dtype=np.int64)
        rows, images, place = [], 0, 0
        for d, size in enumerate(sizes):
            generator = self.generator(d, schedule.purpose)
            rows += [images + generator.permutation(size) for _ in range(schedule.epochs)]
            edges[: len(cuts[size]), :, d] = place + cuts[size]
            images, place = images + size, place + size * schedule.epochs
        return np.concatenate(rows), edges


def _cuts(size: int, schedule: Schedule) -> np.ndarray:
    """Where batches begin and end, for a client of ``size`` images: [steps, 2].

    A last batch of one image, which batch norm cannot take statistics of, joins the one before.
    """
    ends = list(range(schedule.batch_size, size, schedule.batch_size))
    if ends and ends[-1] == size - 1 and schedule.batch_size > 1:
        ends.pop()
    epoch = np.stack([[0, *ends], [*ends, size]], axis=1)
    return np.concatenate([epoch + size * number for number in range(schedule.epochs)])


def _batch(images: Callable[[Tensor], Tensor], labels: Tensor, rows: np.ndarray) -> Batch:
    """The images at each member's rows [D, B], gathered at once."""
    places = torch.from_numpy(rows).to(labels.device)
    return Batch(images(places), _rows(labels, places))


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    """The rows [D, B] of a tensor [N, ...]: [D, B, ...]."""
    return tensor.index_select(0, rows.flatten()).unflatten(0, rows.shape)
