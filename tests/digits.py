"""Federations of real handwritten digits on which methods differ, and how well strategies do there.

Twenty clients with 48 training, 16 adapt and 16 test images. ``dirichlet``: labels by
Dirichlet(0.3). ``two-groups``: two groups that own five classes each. ``swapped-labels``: images of
all kinds, but group g = 0 to 3 calls digit y by the label (y + g) mod 10, so that clients of two
groups cannot use one model. A mean over 20 clients rests on 320 test images: 0.013 are one standard
error of a single seed.

``long-tail`` is another: six clients, labels by Dirichlet(0.5), a twentieth as many images of digit
9 as of digit 0, and a global test that is balanced.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from toys import Trial, training

from fedadapt.client.adaptations.registry import parse
from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark, Examples, Split
from fedadapt.datasets.load import load_benchmark
from fedadapt.models.build import build_model
from fedadapt.parameters import Scalar
from fedadapt.server.exchange import Exchange
from fedadapt.simulations.assembly import initial
from fedadapt.simulations.engines.in_process import InProcessClients
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.base import LocalTraining, Run
from fedadapt.strategies.registry import find
from fedadapt.strategies.selected import SelectedStrategy
from fedadapt.strategies.stateful import StrategyWithState

GROUPS = 4  # of swapped labels
NUM_CLASSES = 10
SETTINGS = {
    "dirichlet": {"benchmark": "digits-dirichlet", "partition": "dirichlet:0.3"},
    "two-groups": {"benchmark": "digits-classes", "partition": "class-types:5"},
    "swapped-labels": {"benchmark": "digits-dirichlet", "partition": "iid"},
    "long-tail": {
        "benchmark": "digits-dirichlet",
        "partition": "dirichlet:0.5",
        "imbalance": "long-tail:0.05",
        "clients": 6,
        "examples": 0,
    },
}


class SwappedLabels(Benchmark):
    """The images of another benchmark, with the labels of client d moved on by d mod 4."""

    def __init__(self, original: Benchmark) -> None:
        self._original = original
        for name in (
            "name", "num_clients", "classes", "image_shape", "scaling", "unseen", "manifest",
        ):  # fmt: skip
            setattr(self, name, getattr(original, name))
        self.kinds = tuple(f"group {d % GROUPS}" for d in range(original.num_clients))

    def split(self, client: int) -> Split:
        def moved(part: Examples) -> Examples:
            return Examples(part.inputs, (part.labels + client % GROUPS) % NUM_CLASSES)

        return Split(*(moved(part) for part in self._original.split(client)))

    def num_train_examples(self, client: int) -> int:
        return self._original.num_train_examples(client)

    @property
    def global_test(self) -> None:
        return None


@cache
def federation(name: str, seed: int) -> Benchmark:
    """One of them by name."""
    given = {"clients": 20, "examples": 80, **SETTINGS[name]}
    config = RunConfig(seed=seed, model="mlp", **given)
    benchmark = load_benchmark(config)
    return SwappedLabels(benchmark) if name == "swapped-labels" else benchmark


@dataclass(frozen=True, eq=False)
class Learnt:
    """A strategy after its rounds."""

    trial: Trial
    benchmark: Benchmark
    rounds: int

    def accuracies(self, model: str, adaptation: str = "none", arguments: str = "") -> np.ndarray:
        """Of each client on its own test images, by ``base`` or ``personal`` models: [D]."""
        method, worker = self.trial.method, self.trial.worker
        clients = range(self.benchmark.num_clients)
        served = method.models(clients)
        config = RunConfig(adapt=adaptation, adapt_args=arguments)
        found = worker.evaluate(
            self.rounds,
            clients,
            {n: w for n, w in served.items() if n == model or n == "base"},
            [self.trial.client_pool.states().get(client, {}) for client in clients],
            adaptations=parse(config),
            on_client=[model] if model in method.made_on_client else (),
        )
        assert not found.failures
        return np.array([row.accuracy for row in found.rows if row.model == model])

    @cached_property
    def base(self) -> float:
        return float(self.accuracies("base").mean())

    @cached_property
    def personal(self) -> float:
        return float(self.accuracies("personal").mean())


def learn(
    strategy: str,
    name: str,
    seed: int,
    arguments: Mapping[str, Scalar] | None = None,
    *,
    rounds: int = 20,
    local: LocalTraining | None = None,
) -> Learnt:
    """Train all clients for ``rounds`` by a strategy with ``arguments``, on one federation.

    SGD of 0.05 with momentum 0.5, batches of 32, 5 epochs a round, unless ``local`` says otherwise.
    """
    benchmark = federation(name, seed)
    config = RunConfig(strategy=strategy, rounds=rounds, clients=20, seed=seed, model="mlp")
    model = build_model(config, benchmark.image_shape, benchmark.num_classes)
    selected = SelectedStrategy.of(config, find(strategy), arguments or {})
    run = Run(
        model=model,
        image_shape=benchmark.image_shape,
        training=local or training(0.05, 5, 32, 0.5),
        batch_norm="shared",
        rounds=rounds,
        seed=seed,
        noise_seed=seed,
        newcomers=(),
    )
    worker = Worker(
        benchmark, model, selected.on_client(run), (), seed=seed, execution="stacked-kernels"
    )
    pool, method = InProcessClients(worker, cohort_size=20), StrategyWithState(worker.strategy)
    method.begin(initial(model), benchmark.seen)
    with pool:
        for number in range(1, rounds + 1):
            exchange = Exchange(
                pool, number, min_replies=0.01, max_update_norm=0.0,
                record=lambda _: None, progress=lambda _: None,
            )  # fmt: skip
            method.round(exchange, benchmark.seen)
    return Learnt(Trial(method, pool, worker, []), benchmark, rounds)


@cache
def fedavg(name: str, seed: int) -> Learnt:
    """The anchor that a method has to beat where clients are alike."""
    return learn("fedavg", name, seed)


@cache
def local(name: str, seed: int) -> Learnt:
    """The anchor that a method has to beat where they are not."""
    return learn("local", name, seed)
