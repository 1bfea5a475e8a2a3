"""TAPER's three stages of training on the server's own images, a round at a time.

Chen et al. 2023, "Train-once-for-all personalization", section 3.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import Fitted, StepRule, fit
from fedadapt.datasets.benchmark import Examples, ServerImages, Split
from fedadapt.random_streams import stream
from fedadapt.strategies.base import LocalTraining
from fedadapt.weights import Weights, repeat, row

FitMixture = Callable[[Cohort, Weights, Tensor, Schedule, Weights | None], Fitted]
"""(cohort of one, bases and mixer, description [1, C + G], schedule, state of the step rule)."""


class Task(NamedTuple):
    """Some classes of one domain."""

    present: Tensor  # [C], bool
    domain: int
    rows: np.ndarray  # the server's images of it, [n]


@dataclass(frozen=True, eq=False)
class ServerTraining:
    """A server that trains on its images as a client does on its own."""

    model: nn.Module  # on meta
    images: ServerImages
    scaling: Callable[[Tensor], Tensor]
    rule: StepRule  # begins from rest in every round
    training: LocalTraining  # for its schedule
    seed: int
    num_classes: int
    num_domains: int  # at least 1
    compute: torch.device
    autocast: torch.dtype | None = None

    def generic(self, generic: Weights, round: int) -> Weights:
        """Stage 1: train one network on all images; weights [...]."""
        cohort = self._cohort([self.images.examples], round)
        schedule = self.training.schedule._replace(purpose="taper/generic")
        start = self._there(repeat(generic, 1))
        return _back(fit(cohort, start, self.rule, schedule).weights)

    def bases(self, bases: Sequence[Weights], round: int) -> tuple[Weights, ...]:
        """Stage 2: train each base on its shard of the images; one without images stays.

        A cell is a class of a domain. Cells are put in order, domain by domain, and cut into as
        many runs of equal length as there are bases: with a base for each domain a shard is a
        domain, with three for each a third of its classes, without domains a part of the classes.
        """
        shard_of = self.shards(len(bases))
        schedule = self.training.schedule._replace(purpose="taper/bases")
        trained = []
        for q, base in enumerate(bases):
            own = np.flatnonzero(shard_of == q)
            if not len(own):
                trained.append(base)
                continue
            cohort = self._cohort([self._examples(own)], round, first=q)
            start = self._there(repeat(base, 1))
            trained.append(_back(fit(cohort, start, self.rule, schedule).weights))
        return tuple(trained)

    def shards(self, number: int) -> np.ndarray:
        """Return the shard of each image, [N]."""
        cells = self._domains * self.num_classes + self._labels
        return np.asarray(cells * number // (self.num_domains * self.num_classes))

    def mixture(
        self,
        given: Weights,
        describe: Callable[[Task], Tensor],
        fit_mixture: FitMixture,
        ways: tuple[int, int],
        round: int,
    ) -> Weights:
        """Stage 3: train all bases and the mixer, a mini-batch for each of many random tasks.

        Args:
            given: Bases and mixer, [...].
            describe: Makes a description [1, C + G] of a task.
            fit_mixture: Takes one step through the mixture for a description.
            ways: The fewest and the most classes of a task.
            round: Names the random stream.

        """
        random = stream(self.seed, "taper/tasks", round)
        size = self.training.batch_size
        once = Schedule(size, 1, "train", "taper/mixture")
        weights, state = self._there(repeat(given, 1)), None
        for _ in range(self.training.epochs * -(-len(self._labels) // size)):
            task = self.task(random, ways)
            rows = random.permutation(task.rows)[:size]
            fitted = fit_mixture(
                self._cohort([self._examples(rows)], round),
                weights,
                describe(task).to(self.compute),
                once,
                state,
            )
            weights, state = weights | fitted.extra, fitted.state
        return _back(weights)

    def task(self, random: np.random.Generator, ways: tuple[int, int]) -> Task:
        """Draw a task: a random image's domain, its class, and other classes of that domain."""
        image = random.integers(len(self._labels))
        domain, label = self._domains[image], self._labels[image]
        of_domain = np.flatnonzero(self._domains == domain)
        others = np.setdiff1d(self._labels[of_domain], label)
        number = int(random.integers(ways[0], ways[1] + 1))
        chosen = [label, *random.permutation(others)[: max(0, number - 1)]]
        present = torch.zeros(self.num_classes, dtype=torch.bool)
        present[chosen] = True
        rows = of_domain[present.numpy()[self._labels[of_domain]]]
        return Task(present, int(domain), rows)

    def tasks_of_bases(
        self, number: int, ways: tuple[int, int], bases: int
    ) -> list[tuple[Task, int]]:
        """Draw tasks, each with the base whose shard has the most of its images."""
        random, shard_of = stream(self.seed, "taper/warm-up"), self.shards(bases)
        tasks = [self.task(random, ways) for _ in range(number)]
        return [(task, int(np.bincount(shard_of[task.rows]).argmax())) for task in tasks]

    @property
    def _labels(self) -> np.ndarray:
        return self.images.examples.labels.numpy()

    @property
    def _domains(self) -> np.ndarray:
        return self.images.domains.numpy()

    def _examples(self, rows: np.ndarray) -> Examples:
        chosen = torch.from_numpy(rows)
        return Examples(self.images.examples.inputs[chosen], self.images.examples.labels[chosen])

    def _cohort(self, examples: Sequence[Examples], round: int, first: int = 0) -> Cohort:
        """The server as a cohort of one; ``first`` tells its random streams apart."""
        there = [Examples(e.inputs.to(self.compute), e.labels.to(self.compute)) for e in examples]
        return Cohort(
            model=self.model,
            clients=tuple(range(first, first + len(there))),
            splits=tuple(Split(e, e, e) for e in there),
            scaling=self.scaling,
            seed=self.seed,
            round=round,
            autocast=self.autocast,
        )

    def _there(self, weights: Weights) -> Weights:
        return {n: t.to(self.compute) for n, t in weights.items()}


def _back(weights: Weights) -> Weights:
    """One model [...] of a stack of one, in the server's memory."""
    return {n: t.cpu() for n, t in row(weights, 0).items()}
