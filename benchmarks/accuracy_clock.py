"""A clock that looks at the global model between rounds, and stands still while it looks."""

import itertools
import os
import time

import numpy as np
import torch

from benchmarks.clock import Clock, Enough, Model
from benchmarks.memory import cpu_seconds, tree
from benchmarks.works import Clients, Work, network

AT_ONCE = 500  # images


class AccuracyClock(Clock):
    """Seconds, processor seconds and accuracy after each round; enough when a target is reached.

    Everybody's models are evaluated here, in the same way, on the same images, and in nobody's
    time. The processor's time is that of a whole family of processes.
    """

    def __init__(
        self, work: Work, target: float, rounds: int, seconds: float, root: int | None = None
    ) -> None:
        """Be content with a model of accuracy ``target``, or with so many rounds or seconds.

        Args:
            root: The process whose descendants work; None: this one, which then counts as well.

        """
        super().__init__(seconds)
        self._network = network(work).eval()
        scaling = Clients(work).scaling
        with np.load(work.data) as file:
            images, self._labels = (
                torch.from_numpy(file[f"test/{n}"]) for n in ("images", "labels")
            )
        self._images = scaling(images)
        self._target, self._left = target, rounds
        self._root = os.getpid() if root is None else root
        self._began: tuple[float, float] | None = None
        self._spent = (0.0, 0.0)  # seconds, and those of the processor
        self.looks: list[tuple[float, float, float]] = []  # both since the start; accuracy

    def tick(self, model: Model | None = None) -> None:
        if model is None:
            raise ValueError("an accuracy needs a model")
        now = self._now()
        if self._began is not None:
            self._spent = (
                self._spent[0] + now[0] - self._began[0],
                self._spent[1] + now[1] - self._began[1],
            )
            accuracy = self.accuracy(model)
            self.looks.append((*self._spent, accuracy))
            self._left -= 1
            if accuracy >= self._target or not self._left or self._spent[0] >= self._seconds:
                raise Enough
        self._began = self._now()

    def forget(self) -> None:
        self.looks.clear()

    @property
    def rounds(self) -> list[float]:
        """Seconds of each round, the first as well."""
        ends = [0.0, *(seconds for seconds, _, _ in self.looks)]
        return [b - a for a, b in itertools.pairwise(ends)]

    @property
    def facts(self) -> dict[str, object]:
        return {"looks": self.looks}

    @torch.no_grad()
    def accuracy(self, model: Model) -> float:
        """The share of all clients' test images, taken together, that the model gets right."""
        self._network.load_state_dict(dict(model()), strict=False)
        parts = zip(self._images.split(AT_ONCE), self._labels.split(AT_ONCE), strict=True)
        right = sum(int((self._network(x).argmax(1) == y).sum()) for x, y in parts)
        return right / len(self._labels)

    def _now(self) -> tuple[float, float]:
        family = set(tree(self._root)) - ({self._root} - {os.getpid()})
        return time.perf_counter(), sum(map(cpu_seconds, family))
