"""Small things to try the real ones on: generated clients, tiny networks, problems with answers.

Everything is float64, so that a difference is a difference and not rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedadapt.client.cohort import Cohort
from fedadapt.client.fit import Sgd
from fedadapt.client.stacking import StackedNetwork
from fedadapt.datasets.benchmark import Benchmark, Examples, Manifest, Scaling, Split
from fedadapt.messages import Sent
from fedadapt.models.network import Network
from fedadapt.objectives import Batch, Outputs, View
from fedadapt.server.exchange import Exchange
from fedadapt.simulations.engines.in_process import InProcessClients
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.base import LocalTraining, Strategy
from fedadapt.strategies.stateful import StrategyWithState
from fedadapt.weights import Weights, stack

CLASSES = 3
SHAPE = (1, 4, 4)


def as_they_are(inputs: Tensor) -> Tensor:
    """The scaling of inputs that are scaled already."""
    return inputs


def examples(count: int, seed: int = 0, shape: Sequence[int] = SHAPE) -> Examples:
    """Noise around a mean per class, float64, with any mean and spread from seed to seed."""
    random = np.random.default_rng((seed, count))
    labels = random.integers(0, CLASSES, count)
    noise = random.normal(0.3 * (seed % 5), 1 + 0.2 * (seed % 3), (count, *shape))
    inputs = noise + labels.reshape(-1, *[1] * len(shape))
    return Examples(torch.from_numpy(inputs), torch.from_numpy(labels))


def images(count: int, seed: int = 0, shape: Sequence[int] = SHAPE) -> Examples:
    """Bytes, as the real benchmarks hold them."""
    random = np.random.default_rng((seed, count))
    inputs = random.integers(0, 256, (count, *shape), dtype=np.uint8)
    return Examples(torch.from_numpy(inputs), torch.from_numpy(random.integers(0, CLASSES, count)))


def split(train: int, adapt: int = 6, test: int = 5, seed: int = 0, make=examples) -> Split:
    """One client's three sets."""
    return Split(*(make(n, 3 * seed + i) for i, n in enumerate((train, adapt, test))))


def dense() -> Network:
    """Linear, batch norm, ReLU, linear."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.ReLU())
    return Network(body, 5, CLASSES)


def conv() -> Network:
    """Two convolutions with batch norm."""
    body = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
    )
    return Network(body, 16, CLASSES)


def plain() -> Network:
    """No batch norm: what it computes is the same in training and evaluation."""
    return Network(nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh()), 5, CLASSES)


def linear(num_inputs: int = 4) -> Network:
    """Softmax regression."""
    return Network(nn.Flatten(), num_inputs, CLASSES)


class Quadratic(nn.Module):
    """Cross-entropy that is a quadratic: F(w) = h/2 (w - t)^2 + 1 for an input (h, t) of class 0.

    Of logits 0 and z the first one's cross-entropy is log(1 + e^z): z = log(e^F - 1) makes it F.
    """

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        h, t = inputs[:, 0], inputs[:, 1]
        value = h / 2 * (self.w - t) ** 2 + 1
        return torch.stack([torch.zeros_like(value), torch.log(torch.expm1(value))], dim=1)


def quadratic_split(curvature: float, target: float, count: int = 1) -> Split:
    """A client whose every image is (h, t)."""
    one = Examples(
        torch.tensor([[curvature, target]] * count, dtype=torch.float64),
        torch.zeros(count, dtype=torch.int64),
    )
    return Split(one, one, one)


def initial(model: nn.Module, seed: int = 0) -> Weights:
    """Weights of a network, [...], float64; nothing in batch norm is at its default."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return torch.full_like(t, 3)
        noise = torch.randn(t.shape, generator=generator, dtype=torch.float64)
        return noise.abs() + 0.5 if name.endswith("running_var") else 0.4 * noise

    return {n: draw(n, t) for n, t in model.state_dict().items()}


def initials(model: nn.Module, count: int, seed: int = 0) -> Weights:
    """A different model for each client, [D, ...]."""
    return stack([initial(model, seed + d) for d in range(count)])


def cohort(
    model: nn.Module, splits: Sequence[Split], execution: str = "sequential", **settings: object
) -> Cohort:
    """Clients 10, 11, ... with these images."""
    model = model.to("meta")
    given = {
        "stacked": execution in ("stacked-kernels", "vmap"),
        "network": StackedNetwork(model)
        if execution in ("per-client", "stacked-kernels")
        else None,
        "clients": tuple(range(10, 10 + len(splits))),
        "splits": tuple(splits),
        "scaling": as_they_are,
        **settings,
    }
    return Cohort(model=model, **given)  # type: ignore[arg-type]


def view_of(
    logits: Tensor,
    params: Weights | None = None,
    batch: Batch | None = None,
    memory: Mapping[str, Weights] | None = None,
    features: Tensor | None = None,
    forward: Callable[..., Tensor] | None = None,
) -> View:
    """What an objective sees where the network's outputs are these, whatever they were made of.

    ``forward`` gives other weights' logits on some inputs.
    """
    forward = forward or (lambda weights, inputs: logits)
    outputs, batch = Outputs(logits, features), batch or Batch(logits, logits)
    return View(
        params=params or {},
        batch=batch,
        memory=memory or {},
        outputs=lambda: outputs,
        apply=lambda weights, mode=None: forward(weights, batch.inputs),
        forward=forward,
    )


def copied(weights: Mapping[str, Tensor]) -> Weights:
    return {n: t.clone() for n, t in weights.items()}


def assert_close(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], **how: float) -> None:
    torch.testing.assert_close(dict(found), dict(wanted), **({"rtol": 1e-9, "atol": 1e-11} | how))


def assert_same_bits(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [n for n in wanted if not torch.equal(found[n], wanted[n])] == []


class Toys(Benchmark):
    """A benchmark made of the splits given; one that is an exception is raised when asked for."""

    def __init__(
        self,
        splits: Sequence[Split | Exception],
        *,
        unseen: Sequence[int] = (),
        everywhere: Examples | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        self.name = "toys"
        self.num_clients = len(splits)
        self.classes = tuple("abc"[:CLASSES])
        self.image_shape = SHAPE
        self.scaling = scaling or as_they_are  # type: ignore[assignment]
        self.kinds = tuple("even" if d % 2 == 0 else "odd" for d in range(len(splits)))
        self.unseen = frozenset(unseen)
        self.manifest = Manifest("0" * 64)
        self.splits = list(splits)
        self._everywhere = everywhere

    def split(self, client: int) -> Split:
        found = self.splits[client]
        if isinstance(found, Exception):
            raise found
        return found

    def num_train_examples(self, client: int) -> int:
        return len(self.split(client).train)

    @property
    def global_test(self) -> Examples | None:
        return self._everywhere


@dataclass(frozen=True)
class Trial:
    """What some rounds without a loop around them left behind."""

    method: StrategyWithState
    client_pool: InProcessClients
    worker: Worker
    communication: list

    @property
    def state(self) -> Weights:
        return self.method.pack()[0]


def training(lr: float = 0.1, epochs: int = 1, batch_size: int = 4, momentum: float = 0.0):
    return LocalTraining(optimizer=Sgd(lr, momentum), batch_size=batch_size, epochs=epochs)


def federate(
    strategy: Strategy,
    benchmark: Benchmark,
    model: nn.Module,
    start: Weights,
    rounds: int,
    *,
    execution: str = "sequential",
    cohort_size: int = 1,
    min_replies: float = 0.01,
    adaptations: Sequence = (),
) -> Trial:
    """Rounds with all clients that are seen, over the in-process engine."""
    worker = Worker(benchmark, model, strategy, adaptations, seed=1, execution=execution)
    client_pool = InProcessClients(worker, cohort_size=cohort_size)
    method, communication = StrategyWithState(strategy), []
    method.begin(start, benchmark.seen)
    with client_pool:
        for number in range(1, rounds + 1):
            exchange = Exchange(
                client_pool,
                number,
                min_replies=min_replies,
                max_update_norm=0.0,
                record=communication.append,
                progress=lambda _: None,
            )
            method.round(exchange, benchmark.seen)
    return Trial(method, client_pool, worker, communication)


def sent(weights: Weights, clients: Sequence[int], **config: float) -> Sent:
    """The same model to all."""
    from fedadapt.weights import repeat

    return Sent(tuple(clients), repeat(weights, len(clients)), {"server-round": 1, **config})
