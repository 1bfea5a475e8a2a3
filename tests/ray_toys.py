"""What Ray actors of the tests import: as little as there can be."""

import os
import signal
from pathlib import Path
from typing import NamedTuple

from toys import Toys, conv, initial, split, training

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.client.failures import Deadlines
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.shared.fedavg import FedAvg

SPLITS = [split(count, seed=count) for count in (5, 12, 10, 7, 9, 3, 8)]
POISONED = [SPLITS[0], OSError("patient 4711: unreadable"), *SPLITS[2:]]
CLIENTS = tuple(range(len(SPLITS)))
START = initial(conv())
METHODS = (NoAdaptation(), AdaBN())


class Deadly(Worker):
    """Client 4 kills or stops its actor, as often as it has lives; a file each counts."""

    folder: Path
    lives: int
    how: signal.Signals

    def answer(self, action, round, sent, states=()):
        killed = len(list(self.folder.iterdir()))
        if 4 in sent.clients and killed < self.lives:
            (self.folder / str(killed)).touch()
            os.kill(os.getpid(), self.how)
        return super().answer(action, round, sent, states)


class ToyRecipe(NamedTuple):
    """Toy clients instead of what a configuration says."""

    poisoned: bool = False
    deadly: str = ""
    lives: int = 0
    how: signal.Signals = signal.SIGKILL

    def build(self):
        strategy = FedAvg(training=training(0.1, 2), model=conv(), batch_norm="local")
        kind = Deadly if self.deadly else Worker
        splits = POISONED if self.poisoned else SPLITS
        worker = kind(Toys(splits), conv(), strategy, METHODS, seed=1)
        if self.deadly:
            worker.folder, worker.lives, worker.how = Path(self.deadly), self.lives, self.how
            if self.how == signal.SIGSTOP:
                worker.deadlines = Deadlines(6.0, 20.0)
        return worker


class DyingRecipe(NamedTuple):
    """Toy clients on actors that die while they start, some times; a file each counts."""

    folder: str
    deaths: int
    test: int  # number of the process of the test, which builds a worker too

    def build(self):
        folder = Path(self.folder)
        folder.mkdir(exist_ok=True)
        if os.getpid() != self.test and len(list(folder.iterdir())) < self.deaths:
            (folder / str(len(list(folder.iterdir())))).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return ToyRecipe().build()
