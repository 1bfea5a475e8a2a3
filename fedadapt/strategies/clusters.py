"""Clusters of clients on the server: made, joined by others, averaged and written down."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedadapt.messages import Answers, Update
from fedadapt.server.aggregation import StreamingMean
from fedadapt.server.clustering.grouping import Grouping, nearest
from fedadapt.weights import Weights, repeat, rows, stack

Vectors = Mapping[int, Tensor]
"""Client -> what it is compared by, [q], float32: PFA's sparsity vector."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Which clients have similar data, and the model of each cluster."""

    clients: tuple[int, ...]  # that have a group, ascending
    vectors: Tensor  # [n, q], float32, as they answered; q = 0 where no vectors are compared
    labels: Tensor  # [n], int64
    centroids: Tensor  # [G, q], float64: mean vector of the clients that were grouped
    models: tuple[Weights, ...]  # [...] each
    since: int  # the round in which they were made
    quality: float  # silhouette; NaN where there is none
    method: str = ""  # what made them in the end, where there are several ways

    @cached_property
    def of(self) -> dict[int, int]:
        """Client -> group."""
        return dict(zip(self.clients, self.labels.tolist(), strict=True))

    @property
    def answered(self) -> dict[int, Tensor]:
        return dict(zip(self.clients, self.vectors, strict=True))

    def model_of(self, client: int) -> Weights | None:
        """The model of a client's group, [...]; None for a client without one."""
        return self.models[self.of[client]] if client in self.of else None

    def personal(self, base: Weights, clients: Sequence[int]) -> Weights:
        """Each client's group model, [D, ...]; ``base`` for a client without a group."""
        which = [self.of.get(client, -1) for client in clients]
        if len(set(which)) == 1:
            return repeat(base if which[0] < 0 else self.models[which[0]], len(clients))
        index = torch.tensor(which) + 1
        every = (base, *self.models)
        return {n: torch.stack([model[n] for model in every])[index] for n in base}

    def joined_by(self, joining: Vectors, where: "Nearest | None" = None) -> "Clusters":
        """With these clients in the groups that are nearest to them; nobody else moves.

        Args:
            where: Which group is nearest to each vector; None: that of the nearest mean vector.

        """
        if not joining:
            return self
        vectors = self.answered | dict(joining)
        theirs = torch.stack(list(joining.values()))
        chosen = nearest(self.centroids, theirs) if where is None else where(self, theirs)
        of = self.of | dict(zip(joining, chosen.tolist(), strict=True))
        clients = tuple(sorted(vectors))
        return replace(
            self,
            clients=clients,
            vectors=torch.stack([vectors[d] for d in clients]),
            labels=torch.tensor([of[d] for d in clients]),
        )

    @property
    def largest(self) -> int:
        """The group of most clients, the first of equals; 0 where nobody has one."""
        return int(torch.bincount(self.labels, minlength=len(self.models)).argmax())

    def without(self, clients: Collection[int]) -> "Clusters":
        """With no group for these clients."""
        staying = [i for i, d in enumerate(self.clients) if d not in clients]
        return replace(
            self,
            clients=tuple(self.clients[i] for i in staying),
            vectors=self.vectors[staying],
            labels=self.labels[staying],
        )

    def divided(self, group: int, leaving: Collection[int]) -> "Clusters":
        """With a new group, the last one, of some of a group's clients; both have its model."""
        number = len(self.models)
        labels = [number if d in leaving else k for d, k in self.of.items()]
        return replace(
            self,
            labels=torch.tensor(labels),
            centroids=self.centroids.new_zeros(number + 1, self.centroids.shape[1]),
            models=(*self.models, self.models[group]),
        )

    def trained(
        self, answers: Iterable[Answers], of: Mapping[int, int] | None = None
    ) -> "Clusters":
        """FedAvg inside each group, streamed; what a client without a group trained is not used.

        Args:
            of: Client -> group, of whose model it trained; it may be filled as answers come in.

        """
        of = self.of if of is None else of
        means = [StreamingMean() for _ in self.models]
        for client, one in one_by_one(answers):
            if client in of:
                means[of[client]].add(one.weights, one.num_examples)
        models = tuple(
            model if mean.empty else model | mean.result()
            for model, mean in zip(self.models, means, strict=True)
        )
        return replace(self, models=models)

    def parted(
        self, answers: Iterable[Answers], of: Mapping[int, int] | None = None
    ) -> list[list[Answers]]:
        """The answers of each group, all held in memory; ``of`` as in ``trained``."""
        of = self.of if of is None else of
        parts: list[list[Answers]] = [[] for _ in self.models]
        for client, one in one_by_one(answers):
            if client in of:
                parts[of[client]].append(Answers((client,), one))
        return parts

    def members(self) -> dict[str, Any]:
        """Who is in which group; JSON."""
        return {
            "round": self.since,
            "num_groups": len(self.models),
            "quality": None if np.isnan(self.quality) else self.quality,
            "method": self.method,
            "clients": list(self.clients),
            "labels": self.labels.tolist(),
        }

    def describe(self) -> dict[str, Any]:
        """Who is in which group, and by what; JSON."""
        return self.members() | {"vectors": self.vectors.tolist()}

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"vectors": self.vectors, "labels": self.labels, "centroids": self.centroids}
        for g, model in enumerate(self.models):
            tensors |= {f"{g}/{n}": t for n, t in model.items()}
        return tensors, {
            "clients": list(self.clients),
            "since": self.since,
            "quality": None if np.isnan(self.quality) else self.quality,  # JSON has no NaN
            "method": self.method,
        }

    @staticmethod
    def unpack(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> "Clusters":
        """The inverse of ``pack``; ``tensors`` may hold others."""
        return Clusters(
            clients=tuple(metadata["clients"]),
            vectors=tensors["vectors"],
            labels=tensors["labels"],
            centroids=tensors["centroids"],
            models=tuple(below(tensors, str(g)) for g in range(len(tensors["centroids"]))),
            since=metadata["since"],
            quality=float("nan") if metadata["quality"] is None else metadata["quality"],
            method=metadata.get("method", ""),  # older checkpoints do not say
        )


Nearest = Callable[[Clusters, Tensor], Tensor]
"""Clusters and vectors [m, q] -> the group that is nearest to each, [m], int64."""


def nearest_on_average(distances: Tensor, clusters: Clusters) -> Tensor:
    """The group whose clients are nearest on average: distances [m, n] to them -> [m], int64."""
    groups = range(len(clusters.models))
    means = [distances[:, clusters.labels == g].mean(1) for g in groups]
    return torch.stack(means, 1).nan_to_num(nan=torch.inf).argmin(1)


def below(tensors: Mapping[str, Tensor], name: str) -> Weights:
    """What was packed as ``<name>/...``."""
    prefix = f"{name}/"
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def formed(
    members: Vectors, grouping: Grouping, base: Weights, before: Clusters | None, round: int
) -> Clusters:
    """New groups of ``members``, in the order in which ``grouping`` labels them.

    Each starts from ``base``, or, where there were groups before, from the mean of the models its
    members had: a group whose members stay together keeps its model to the bit.
    """
    labels = grouping.labels.tolist()
    models = []
    for group in range(grouping.num_groups):
        had: Counter[int] = Counter()
        if before is not None:
            mine = [d for d, label in zip(members, labels, strict=True) if label == group]
            had.update(before.of[d] for d in mine if d in before.of)
        models.append(_mean_of(had, before.models) if before is not None and had else base)
    return Clusters(
        clients=tuple(members),
        vectors=torch.stack(list(members.values())),
        labels=grouping.labels,
        centroids=grouping.centroids,
        models=tuple(models),
        since=round,
        quality=grouping.quality,
        method=grouping.method,
    )


def at_random(
    clients: Sequence[int],
    newcomers: Collection[int],
    number: int,
    base: Weights,
    round: int,
    generator: np.random.Generator,
) -> Clusters:
    """A partition into groups that differ by one client at most: the baseline of table 8."""
    order = generator.permutation(len(clients))
    of = {clients[place]: turn % number for turn, place in enumerate(order.tolist())}
    of |= {client: int(generator.integers(number)) for client in sorted(set(newcomers) - set(of))}
    everyone = tuple(sorted(of))
    return Clusters(
        clients=everyone,
        vectors=torch.zeros(len(everyone), 0),
        labels=torch.tensor([of[d] for d in everyone]),
        centroids=torch.zeros(number, 0, dtype=torch.float64),
        models=(base,) * number,
        since=round,
        quality=float("nan"),
        method="random",
    )


def _mean_of(had: Counter[int], models: Sequence[Weights]) -> Weights:
    """The mean of some models, each as often as it is counted; integers from the first of them."""
    chosen = sorted(had)
    if len(chosen) == 1:
        return models[chosen[0]]
    mean = StreamingMean()
    by = torch.tensor([float(had[g]) for g in chosen], dtype=torch.float64)
    mean.add(stack([models[g] for g in chosen]), by)
    return models[chosen[0]] | mean.result()


def one_by_one(answers: Iterable[Answers]) -> Iterator[tuple[int, Update]]:
    """Each client's weights and weight, [1, ...], as views."""
    for some in answers:
        if some.update is None:
            continue
        for d, client in enumerate(some.clients):
            weights = rows(some.update.weights, d, d + 1)
            yield client, Update(weights, some.update.num_examples[d : d + 1])
