"""fluke: its FedAVG, in an environment that has fluke-fl."""

from typing import Any

import torch
from fluke import DDict, FlukeENV
from fluke.algorithms.fedavg import FedAVG
from fluke.data import FastDataLoader
from fluke.evaluation import ClassificationEval
from fluke.utils import FederationObserver
from torch import nn

from benchmarks.clock import Clock, Enough
from benchmarks.works import CLASSES, Clients, Work, network


def run(work: Work, clock: Clock) -> None:
    """Rounds until the clock has had enough."""
    torch.set_num_threads(1)  # it has one process; a second thread waits more than it helps
    environment = FlukeENV()
    environment.set_seed(1)
    environment.set_device("cpu")
    environment.set_inmemory(True)
    environment.set_eval_cfg(pre_fit=False, post_fit=False, server=False, locals=False)
    environment.set_evaluator(ClassificationEval(10**6, len(CLASSES)))
    client = {
        "batch_size": work.batch,
        "local_epochs": 1,
        "loss": "CrossEntropyLoss",
        "optimizer": {"name": "SGD", "lr": work.lr, "momentum": work.momentum},
        "scheduler": {"name": "StepLR", "step_size": 1, "gamma": 1},
    }
    settings = DDict(client=client, server={"weighted": True}, model=network(work))
    algorithm = FedAVG(work.clients, Splitter(work), settings)
    algorithm.set_callbacks([Ticking(clock)])
    try:
        algorithm.run(10**6, 1.0)
    except Enough:
        return


class Splitter:
    """What fluke asks for the clients' images."""

    def __init__(self, work: Work) -> None:
        self._clients, self._count = Clients(work), work.clients

    def assign(self, clients: int, batch_size: int) -> tuple[Any, None]:
        """Return each client's training images twice: nobody looks at the ones for testing."""
        more = {"num_labels": len(CLASSES), "batch_size": batch_size, "shuffle": True}
        train, test = (
            [FastDataLoader(*self._clients.scaled(d), **more) for d in range(self._count)]
            for _ in range(2)
        )
        return (train, test), None


class Ticking(FederationObserver):
    """Ticks when a round begins."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def start_round(self, round: int, global_model: nn.Module, **_: Any) -> None:
        self._clock.tick(global_model.state_dict)
