"""TAPER trained on the server, and what each part of it is worth: the paper's ablation, on clients.

A run of `taper-server`, and beside its models those that lack a part of it, on the same clients'
images. The generic network has as many epochs as all three stages together, so that nothing is
better because it was trained for longer.

  python -m benchmarks.taper_ablation --seeds 1,2,3 --settings "benchmark=digits-domains
  partition=pathological:3 clients=20 server-share=0.4"

Settings are those of `fedadapt simulate`. Two learning rates or more are tried with `--tuning-seed`
first; the one whose TAPER is best on the clients' adapt images is taken for all rows and seeds.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedadapt.client.class_selection import with_classes
from fedadapt.client.cohort import Part
from fedadapt.client.evaluation import evaluate
from fedadapt.config import RunConfig, parse_arguments
from fedadapt.models.network import Network
from fedadapt.server.exchange import Exchange
from fedadapt.simulations.assembly import Assembly, assemble, initial, server_side
from fedadapt.simulations.engines.in_process import InProcessClients
from fedadapt.strategies.generated.taper_server import TaperServer
from fedadapt.strategies.generated.task_mixtures import MixtureState
from fedadapt.strategies.stateful import StrategyWithState
from fedadapt.weights import Weights, num_bytes, repeat, row

GUESSES = 5  # batches of each client, for self-specialisation
ROWS = {
    "generic": "generic network, as many epochs as all stages",
    "generic-selection": "... + class selection",
    "own-base": "the base of the client's domain after stage 2 + class selection",
    "uniform": "equal shares of all bases, after stage 3 + class selection",
    "wrong-domain": "TAPER told another domain",
    "no-selection": "TAPER without class selection",
    "self": "TAPER, classes guessed: self-specialisation",
    "taper": "TAPER",
}


def narrow(image_shape: tuple[int, int, int], num_classes: int) -> Network:
    """A hidden layer of 8: too small to be good on all domains at once."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(prod(image_shape), 8), nn.ReLU())
    return Network(body, 8, num_classes)


@dataclass(frozen=True, eq=False)
class Trained:
    """A server after all its rounds."""

    assembly: Assembly
    strategy: TaperServer
    state: MixtureState
    longer: Weights  # the generic network after as many epochs, [...]
    second: MixtureState  # as the second stage left it

    @property
    def clients(self) -> list[int]:
        return [*range(self.assembly.benchmark.num_clients)]

    def models(self) -> dict[str, Weights]:
        """The rows' networks, [D, ...] each."""
        strategy, state, clients = self.strategy, self.state, self.clients
        number = len(clients)
        tasks = strategy.tasks_of(state, clients)
        present = tasks[:, : strategy.num_classes] > 0
        generic = repeat(self.longer, number)
        given = repeat(strategy.all_of(state), number)

        def selected(weights: Weights) -> Weights:
            return with_classes(weights, strategy.head, present)

        mean = {n: torch.stack([base[n] for base in state.bases]).to(t).mean(0) if
                t.is_floating_point() else t for n, t in state.bases[0].items()}  # fmt: skip
        own = [self.second.bases[self._base_of(d)] for d in clients]
        guessed = self._guessed()
        return {
            "generic": generic,
            "generic-selection": selected(generic),
            "own-base": selected({n: torch.stack([base[n] for base in own]) for n in own[0]}),
            "uniform": selected(repeat(mean, number)),
            "wrong-domain": selected(strategy.mixture(given, self._of_another_domain(tasks))),
            "no-selection": strategy.mixture(given, tasks),
            "self": dict(replace(strategy, task="guessed").models(guessed, clients)["personal"]),
            "taper": dict(strategy.models(state, clients)["personal"]),
        }

    def accuracies(self, part: Part | str) -> dict[str, np.ndarray]:
        """Of each row, each client's, on its ``part`` of the images: [D]."""
        worker = self.assembly.worker
        cohort = worker.cohort(self.clients, 0)
        examples = [getattr(split, part) for split in cohort.splits]
        found = {}
        for name, weights in self.models().items():
            there = {n: t.to(worker.compute) for n, t in weights.items()}
            found[name] = np.array([s.accuracy for s in evaluate(cohort, there, examples)])
        return found

    def _base_of(self, client: int) -> int:
        """The base whose shard has the client's domain; of several the first."""
        benchmark, bases = self.assembly.benchmark, len(self.second.bases)
        return benchmark.domain(client) * bases // max(1, len(benchmark.domains))

    def _of_another_domain(self, tasks: Tensor) -> Tensor:
        """Descriptions with the next domain instead of the client's own."""
        classes = self.strategy.num_classes
        return torch.cat([tasks[:, :classes], tasks[:, classes:].roll(1, 1)], 1)

    def _guessed(self) -> MixtureState:
        """The state after clients told no more than what networks say of some batches."""
        strategy = replace(self.strategy, task="guessed")
        state, rounds = replace(self.state, tasks={}), self.assembly.config.rounds
        pool = InProcessClients(self.assembly.worker, cohort_size=len(self.clients))
        with pool:
            for number in range(rounds, rounds + GUESSES):
                [action] = strategy.actions(state, rounds)
                sent = strategy.send(state, action, rounds, ())
                expected = strategy.expected(action, row(sent.weights, 0))
                answers = _exchange(pool, number).ask(action, sent, expected)
                state = strategy.merge(state, action, number, answers)
        return state


def train(config: RunConfig, folder: Path) -> Trained:
    """Run the three stages, and the generic network for as long."""
    assembly = assemble(config)
    strategy: Any = assembly.worker.strategy.prepare(server_side(assembly, folder))
    method = StrategyWithState(strategy)
    method.begin(initial(assembly.model), assembly.benchmark.seen)
    longer: Weights = {}
    second = None
    pool = InProcessClients(assembly.worker, cohort_size=assembly.benchmark.num_clients)
    state: Any = method._state
    with pool:
        for number in range(1, config.rounds + 1):
            if strategy.stage(number) == "mixture" and second is None:
                second = state
            method.round(_exchange(pool, number), assembly.benchmark.seen)
            state = method._state
            if strategy.stage(number) == "generic":
                longer = state.generic
            else:
                longer = strategy.server.generic(longer, number)
    return Trained(assembly, strategy, state, longer, second or state)


def _exchange(pool: InProcessClients, number: int) -> Exchange:
    return Exchange(
        pool, number, min_replies=0.5, max_update_norm=0.0,
        record=lambda _: None, progress=lambda _: None,
    )  # fmt: skip


def chosen_rate(settings: Mapping[str, Any], rates: Sequence[float], seed: int) -> float:
    """The learning rate whose TAPER is best on adapt images, with a seed of its own."""
    found = {}
    for rate in rates:
        trained = train(RunConfig.from_mapping({**settings, "lr": rate, "seed": seed}), Path())
        found[rate] = float(trained.accuracies("adapt")["taper"].mean())
        print(
            f"lr {rate:g}, seed {seed}: TAPER {100 * found[rate]:.1f} on adapt images", flush=True
        )
    return max(found, key=found.__getitem__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", default="", help="of the run, as name=value")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--learning-rates", default="0.1")
    parser.add_argument("--tuning-seed", type=int, default=101)
    parser.add_argument("--json", type=Path, help="file for all numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"strategy": "taper-server", **parse_arguments(options.settings, "--settings")}
    rates = [float(rate) for rate in options.learning_rates.split(",")]
    rate = rates[0] if len(rates) == 1 else chosen_rate(settings, rates, options.tuning_seed)
    found: dict[str, list[np.ndarray]] = {name: [] for name in ROWS}
    for seed in map(int, options.seeds.split(",")):
        trained = train(RunConfig.from_mapping({**settings, "lr": rate, "seed": seed}), Path())
        for name, values in trained.accuracies("test").items():
            found[name].append(values)
        print(seed, {n: round(100 * float(v[-1].mean()), 1) for n, v in found.items()}, flush=True)
    size = num_bytes(row(trained.models()["taper"], 0))
    print(f"lr {rate:g}; {len(trained.state.bases)} bases; a client's network: {size:,} bytes")
    print("\n| network | mean | sd over seeds | worst 10 % |\n| --- | --- | --- | --- |")
    for name, words in ROWS.items():
        means = np.array([values.mean() for values in found[name]])
        worst = np.mean([np.quantile(values, 0.1) for values in found[name]])
        print(
            f"| {words} | {100 * means.mean():.1f} | {100 * means.std():.1f} | {100 * worst:.1f} |"
        )
    if options.json:
        numbers = {name: [v.tolist() for v in values] for name, values in found.items()}
        options.json.write_text(json.dumps({"settings": settings, "lr": rate, "accuracy": numbers}))


if __name__ == "__main__":
    main()
