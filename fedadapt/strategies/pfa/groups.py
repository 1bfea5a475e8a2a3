"""PFA's groups on the server: how they are made, joined, averaged and written down."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
"""Device -> its sparsity vector, [q], float32."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Who is like whom, and the model of each group."""

    devices: tuple[int, ...]  # that have a group, ascending
    vectors: Tensor  # [n, q], float32, as they answered; q = 0 where groups are random
    labels: Tensor  # [n], int64
    centroids: Tensor  # [G, q], float64: mean vector of the devices that were grouped
    models: tuple[Weights, ...]  # [...] each
    since: int  # the round in which they were made
    quality: float  # silhouette; NaN where there is none
    method: str  # what made them in the end: efficient, exact or random

    @cached_property
    def of(self) -> dict[int, int]:
        """Device -> group."""
        return dict(zip(self.devices, self.labels.tolist(), strict=True))

    @property
    def answered(self) -> dict[int, Tensor]:
        return dict(zip(self.devices, self.vectors, strict=True))

    def personal(self, base: Weights, devices: Sequence[int]) -> Weights:
        """Each device's group model, [D, ...]; ``base`` for a device without a group."""
        which = [self.of.get(device, -1) for device in devices]
        if len(set(which)) == 1:
            return repeat(base if which[0] < 0 else self.models[which[0]], len(devices))
        index = torch.tensor(which) + 1
        every = (base, *self.models)
        return {n: torch.stack([model[n] for model in every])[index] for n in base}

    def joined_by(self, found: Vectors) -> "Groups":
        """With these devices in the groups whose mean vectors are nearest; nobody else moves."""
        if not found:
            return self
        vectors = self.answered | dict(found)
        their = nearest(self.centroids, torch.stack([v.double() for v in found.values()])).tolist()
        of = self.of | dict(zip(found, their, strict=True))
        devices = tuple(sorted(vectors))
        return replace(
            self,
            devices=devices,
            vectors=torch.stack([vectors[d] for d in devices]),
            labels=torch.tensor([of[d] for d in devices]),
        )

    def trained(self, answers: Iterable[Answers]) -> "Groups":
        """FedAvg inside each group, streamed; what a device without a group trained is not used."""
        means = [StreamingMean() for _ in self.models]
        for device, one in _one_by_one(answers):
            if device in self.of:
                means[self.of[device]].add(one.weights, one.num_examples)
        models = tuple(
            model if mean.empty else model | mean.result()
            for model, mean in zip(self.models, means, strict=True)
        )
        return replace(self, models=models)

    def parted(self, answers: Iterable[Answers]) -> list[list[Answers]]:
        """The answers of each group, all held in memory."""
        parts: list[list[Answers]] = [[] for _ in self.models]
        for device, one in _one_by_one(answers):
            if device in self.of:
                parts[self.of[device]].append(Answers((device,), one))
        return parts

    def describe(self) -> dict[str, Any]:
        """Who is in which group, and by what; JSON."""
        return {
            "round": self.since,
            "num_groups": len(self.models),
            "quality": None if np.isnan(self.quality) else self.quality,
            "method": self.method,
            "devices": list(self.devices),
            "labels": self.labels.tolist(),
            "vectors": self.vectors.tolist(),
        }

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"vectors": self.vectors, "labels": self.labels, "centroids": self.centroids}
        for g, model in enumerate(self.models):
            tensors |= {f"{g}/{n}": t for n, t in model.items()}
        return tensors, {
            "devices": list(self.devices),
            "since": self.since,
            "quality": None if np.isnan(self.quality) else self.quality,  # JSON has no NaN
            "method": self.method,
        }

    @staticmethod
    def unpack(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> "Groups":
        """The inverse of ``pack``; ``tensors`` may hold others."""
        return Groups(
            devices=tuple(facts["devices"]),
            vectors=tensors["vectors"],
            labels=tensors["labels"],
            centroids=tensors["centroids"],
            models=tuple(below(tensors, str(g)) for g in range(len(tensors["centroids"]))),
            since=facts["since"],
            quality=float("nan") if facts["quality"] is None else facts["quality"],
            method=facts.get("method", ""),  # older checkpoints do not say
        )


def below(tensors: Mapping[str, Tensor], name: str) -> Weights:
    """What was packed as ``<name>/...``."""
    prefix = f"{name}/"
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def formed(
    members: Vectors, grouping: Grouping, base: Weights, before: Groups | None, round: int
) -> Groups:
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
    return Groups(
        devices=tuple(members),
        vectors=torch.stack(list(members.values())),
        labels=grouping.labels,
        centroids=grouping.centroids,
        models=tuple(models),
        since=round,
        quality=grouping.quality,
        method=grouping.method,
    )


def at_random(
    devices: Sequence[int],
    newcomers: Collection[int],
    number: int,
    base: Weights,
    round: int,
    generator: np.random.Generator,
) -> Groups:
    """A partition into groups that differ by one device at most: the baseline of table 8."""
    order = generator.permutation(len(devices))
    of = {devices[place]: turn % number for turn, place in enumerate(order.tolist())}
    of |= {device: int(generator.integers(number)) for device in sorted(set(newcomers) - set(of))}
    everyone = tuple(sorted(of))
    return Groups(
        devices=everyone,
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


def _one_by_one(answers: Iterable[Answers]) -> Iterator[tuple[int, Update]]:
    """Each device's weights and weight, [1, ...], as views."""
    for some in answers:
        if some.update is None:
            continue
        for d, device in enumerate(some.devices):
            weights = rows(some.update.weights, d, d + 1)
            yield device, Update(weights, some.update.num_examples[d : d + 1])
