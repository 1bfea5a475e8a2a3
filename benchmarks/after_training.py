"""Local adaptations with any arguments on the base models of finished runs, without training anew.

  fedadapt simulate --benchmark digits-dirichlet --unseen 0.5 --adapt none --seed 1 --out a
  python -m benchmarks.after_training a b c --adapt "none; prototype shots=1; fine-tune shots=1"

Each is tried on the clients that never trained, or on all where there are none: mean accuracy on
their tests, over clients and then over runs, with the standard deviation over runs. What an
adaptation asks the federation is asked of all clients that trained, at the base model, as a run
does. A strategy's base model has to be what its server shares.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.adaptations.registry import build
from fedadapt.client.evaluation import evaluate
from fedadapt.config import RunConfig, parse_arguments
from fedadapt.errors import InputError
from fedadapt.server.aggregation import StreamingMean
from fedadapt.server.checkpoint import load_latest
from fedadapt.simulations.assembly import assemble
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.shared_model import SharedModel
from fedadapt.weights import Weights, repeat

AT_ONCE = 20  # clients


def adaptation(words: str) -> Adaptation:
    """Return the adaptation of ``name argument=value ...``."""
    name, _, arguments = words.strip().partition(" ")
    return build(name, parse_arguments(arguments, "adapt"), "adapt")


def in_cohorts(clients: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the clients, some at a time."""
    return [tuple(clients[i : i + AT_ONCE]) for i in range(0, len(clients), AT_ONCE)]


def pooled_answers(
    adaptation: Adaptation, worker: Worker, base: Weights, round: int
) -> dict[str, Weights]:
    """Return the means of what the clients that trained answer, by the name of who asks."""
    pooled: dict[str, Weights] = {}
    for part in adaptation.in_turn():
        query, before = part.query(), {}
        for _ in range(query.rounds if query else 0):
            mean = StreamingMean()
            for some in in_cohorts(worker.benchmark.seen):
                cohort = worker.cohort(some, round)
                answer = query.answered(cohort, *(repeat(w, len(some)) for w in (base, before)))
                mean.add(answer, cohort.num_examples)
            before = mean.result()
        if query:
            pooled[part.name] = before
    return pooled


def accuracies(folder: Path, adaptations: Sequence[Adaptation]) -> list[float]:
    """Return the mean accuracy of each adaptation on a run's base model, in 0..1.

    Raises:
        InputError: The run's strategy has no base model that all clients share.

    """
    config = RunConfig.from_toml(folder / "config.toml")
    worker = assemble(config).worker
    if not isinstance(worker.strategy, SharedModel):
        raise InputError(f"{folder}: {config.strategy} has no single model on its server")
    base = worker.strategy.base_model(worker.strategy.unpack(load_latest(folder).tensors, {}))
    clients = tuple(sorted(worker.benchmark.unseen)) or tuple(worker.benchmark.seen)
    means = []
    for each in adaptations:
        answers = pooled_answers(each, worker, base, config.rounds)
        scores = []
        for some in in_cohorts(clients):
            cohort, count = worker.cohort(some, config.rounds), len(some)
            pooled = each.pooled_from({n: repeat(w, count) for n, w in answers.items()})
            adapted = each.adapt(cohort, repeat(base, count), pooled)
            scores += evaluate(cohort, adapted, [split.test for split in cohort.splits])
        means.append(sum(score.accuracy for score in scores) / len(scores))
    return means


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--adapt", required=True, help='"name argument=value; name; ..."')
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    words = [some.strip() for some in given.adapt.split(";") if some.strip()]
    adaptations = [adaptation(some) for some in words]
    found = torch.tensor([accuracies(run, adaptations) for run in given.runs], dtype=torch.float64)
    print("| adaptation | accuracy, % |\n| --- | --- |")
    for some, mean, spread in zip(words, found.mean(0), found.std(0, correction=0), strict=True):
        print(f"| `{some}` | {100 * mean:.1f} ± {100 * spread:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
