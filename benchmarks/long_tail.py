"""Frequent and rare classes: accuracies of base models of finished runs on the balanced test.

Classes are sorted by how often clients train on them; the first ones with three quarters of all
images are the head, those up to 95 % the middle, the rest the tail, as in the authors' code of
FedLoGe. *Averaged* is the model that the clients' answers were averaged to, *served* the base model
that the strategy makes of it: FedLoGe's has the rows of its head realigned.

  fedadapt simulate --strategy fedloge --benchmark cifar10 --imbalance long-tail:0.02 ... --out a
  python -m benchmarks.long_tail a b c

Runs are of a strategy whose server holds one model; each line is a mean over the runs of one
strategy, which may have different seeds.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.models.mode import evaluating
from fedadapt.server.checkpoint import load_latest
from fedadapt.simulations.assembly import Assembly, assemble
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights, repeat

SHARES = {"head": 0.75, "middle": 0.95, "tail": 1.0}  # of all training images, cumulated
AT_ONCE = 500  # images


class Accuracies(NamedTuple):
    """Of one model, each in 0..1."""

    all: float
    head: float
    middle: float
    tail: float


def thirds(counts: Tensor) -> dict[str, Tensor]:
    """Return the classes of each part, most frequent first, by images of each class [C]."""
    order = counts.argsort(descending=True, stable=True)
    until = counts[order].cumsum(0) / counts.sum()
    parts, below = {}, 0.0
    for name, share in SHARES.items():
        parts[name] = order[(until > below) & (until <= share + 1e-9)]
        below = share + 1e-9
    return parts


def by_part(right: Tensor, labels: Tensor, parts: Mapping[str, Tensor]) -> Accuracies:
    """Return accuracies of predictions that are right or not, [N], of images of classes [N]."""
    of_part = {name: right[torch.isin(labels, classes)] for name, classes in parts.items()}
    return Accuracies(
        right.double().mean().item(), **{n: of.double().mean().item() for n, of in of_part.items()}
    )


def models(folder: Path) -> tuple[Assembly, dict[str, Weights]]:
    """Return the base models of a finished run, [...]: as averaged, and as served.

    Raises:
        InputError: Its strategy's server holds no single model.

    """
    assembly = assemble(RunConfig.from_toml(folder / "config.toml"))
    strategy = assembly.worker.strategy
    if not isinstance(strategy, SharedModel):
        raise InputError(f"{folder}: {assembly.config.strategy} has no single model on its server")
    state = strategy.unpack(load_latest(folder).tensors, {})
    served = strategy.base_model(state)
    return assembly, {"averaged": {n: state[n] for n in served}, "served": served}


def accuracies(folder: Path) -> dict[str, Accuracies]:
    """Return those of a run's models on the balanced test.

    Raises:
        InputError: There is no such test, or no single model.

    """
    assembly, made = models(folder)
    benchmark, test = assembly.benchmark, assembly.benchmark.global_test
    if test is None:
        raise InputError(f"{folder}: {benchmark.name} has no balanced test")
    counts = torch.zeros(benchmark.num_classes, dtype=torch.int64)
    for client in benchmark.seen:
        labels = benchmark.split(client).train.labels
        counts += torch.bincount(labels, minlength=benchmark.num_classes)
    nobody = assembly.worker.cohort((), 0)
    found = {}
    for name, weights in made.items():
        right = []
        for first in range(0, len(test), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            images = benchmark.scaling(test.inputs[some]).unsqueeze(0)
            with evaluating(nobody.model), torch.no_grad():
                logits = nobody.logits(repeat(weights, 1), images)[0]
            right.append(logits.argmax(1) == test.labels[some])
        found[name] = by_part(torch.cat(right), test.labels, thirds(counts))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    given = parser.parse_args(argv)
    rows: dict[tuple[str, str], list[Accuracies]] = {}
    for folder in given.runs:
        strategy = RunConfig.from_toml(folder / "config.toml").strategy
        for name, of_model in accuracies(folder).items():
            rows.setdefault((strategy, name), []).append(of_model)
    print("| strategy | model | runs | " + " | ".join(Accuracies._fields) + " |")
    print("| --- " * (3 + len(Accuracies._fields)) + "|")
    for (strategy, name), each in rows.items():
        means = torch.tensor(each, dtype=torch.float64)
        spread = means.std(0, correction=0)
        cells = [
            f"{100 * m:.1f} ± {100 * s:.1f}" for m, s in zip(means.mean(0), spread, strict=True)
        ]
        print(f"| `{strategy}` | {name} | {len(each)} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
