"""A network of two numbers, a body and a head, on clients where each round is known by hand."""

from typing import Any

import torch
from torch import Tensor, nn
from toys import Toys, Trial, assert_same_bits, federate, quadratic_split, training

from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.strategies.base import Strategy
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.strategies.shared.local import Local


class _Number(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, other: Tensor) -> Tensor:
        return other + self.value


class Sum(nn.Module):
    """F = h/2 (body + head - t)^2 + 1 for an input (h, t) of class 0; see ``toys.Quadratic``."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = _Number(), _Number()

    def forward(self, inputs: Tensor) -> Tensor:
        h, t = inputs[:, 0], inputs[:, 1]
        value = h / 2 * (self.head(self.body(-t))) ** 2 + 1
        return torch.stack([torch.zeros_like(value), torch.log(torch.expm1(value))], dim=1)


BODY, HEAD = "body.value", "head.value"
START = {
    BODY: torch.tensor(6.0, dtype=torch.float64),
    HEAD: torch.tensor(4.0, dtype=torch.float64),
}
PROBLEM = [quadratic_split(1, 0), quadratic_split(1, 4)]
"""Residuals at the start: 10 and 6. A step of 0.25 on both numbers takes 2.5 and 1.5 off each."""


def _images(*each: tuple[float, float]) -> Split:
    inputs = torch.tensor(each, dtype=torch.float64)
    return Split(*[Examples(inputs, torch.zeros(len(each), dtype=torch.int64))] * 3)


UNEVEN = [_images((1, 0), (2, 1), (0.5, 3), (1, -1), (0.3, 2)), _images((2, 4), (1, 5), (0.1, 9))]
"""Images that differ, in batches of two: what is computed depends on their order."""


def a_round(strategy: Strategy[Any], rounds: int = 1, problem=PROBLEM, **how: Any) -> Trial:
    """What is left after a round, or several, of ``strategy`` from ``START``."""
    return federate(strategy, Toys(problem), Sum(), START, rounds, **how)


def settings(lr: float = 0.25, epochs: int = 1, momentum: float = 0.0) -> dict[str, Any]:
    """Arguments of any strategy that has a shared model: a step of 0.25 a round."""
    return {"model": Sum(), "training": training(lr, epochs, 2, momentum)}


def own(trial: Trial) -> dict[str, list[float]]:
    """Each client's personal model after a trial, number by number."""
    clients = range(trial.worker.benchmark.num_clients)
    states = trial.client_pool.states()
    cohort = trial.worker.cohort(clients, 9, [states.get(d, {}) for d in clients])
    base = trial.method.models(clients)["base"]
    personal = trial.worker.strategy.localise(cohort, base, "personal")
    return {n: t.tolist() for n, t in personal.items()}


def assert_is_fedavg(strategy: Strategy[Any], rounds: int = 3) -> None:
    """The shared model is that of FedAvg, bit for bit."""
    found = a_round(strategy, rounds, UNEVEN).state
    average = FedAvg(model=Sum(), training=strategy.training)
    assert_same_bits(found, a_round(average, rounds, UNEVEN).state)


def assert_is_local(strategy: Strategy[Any], rounds: int = 3) -> None:
    """The personal models are those of clients that train alone, bit for bit."""
    alone = Local(model=Sum(), training=strategy.training)
    assert own(a_round(strategy, rounds, UNEVEN)) == own(a_round(alone, rounds, UNEVEN))
