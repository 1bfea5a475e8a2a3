"""How long a run will take, from a few steps that are timed before its first round.

Nothing is learnt from it but time: no random stream of the run is touched, no weights are kept.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch

from fedadapt.client.adaptations.base import Adaptation
from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.cross_fitting import FOLDS
from fedadapt.client.evaluation import evaluate
from fedadapt.client.fit import fit
from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.simulations.alone import local_epochs
from fedadapt.simulations.assembly import Assembly, initial, local_training
from fedadapt.weights import Weights, repeat

ANNOUNCED = 180.0  # seconds; a shorter run begins without a word
TRIED = 64  # test images that evaluation is timed on
REPEATS = 3  # of each measurement; the fastest counts, for the first one warms up
LEAST = 0.25  # of the time of the first epoch that each further one takes: timers are noisy
ENOUGH = 1.0  # seconds, after which a measurement is not repeated
ON_THE_WAY = 1000  # clients that are evaluated between rounds at most


class Estimate(NamedTuple):
    """Seconds, on all workers together."""

    training: float
    alone: float
    adaptation: float
    evaluation: float

    @property
    def total(self) -> float:
        return sum(self)


def estimate(assembly: Assembly, *, rounds: int, workers: int) -> Estimate:
    """Time some steps of the first clients, computed as the run computes them.

    Args:
        rounds: Rounds that are left.
        workers: Processes that compute side by side, each on one thread.

    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):  # a foreign network may draw from torch's generator
            return _measured(assembly, rounds, workers)
    finally:
        torch.set_num_threads(threads)


def announcement(estimated: Estimate, workers: int) -> str:
    """One line: how long, and what of it goes where."""
    parts = (
        ("training", estimated.training),
        ("training alone (--no-local leaves it out)", estimated.alone),
        ("local adaptations", estimated.adaptation),
        ("evaluation", estimated.evaluation),
    )
    durations = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts if seconds >= 1)
    side = f"{workers} workers" if workers > 1 else "one worker"
    return f"this will take about {duration(estimated.total)} on {side}: {durations}"


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``: as exact as an estimate can be."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _measured(assembly: Assembly, rounds: int, workers: int) -> Estimate:
    config, worker, benchmark = assembly.config, assembly.worker, assembly.benchmark
    seen, everyone = len(benchmark.seen), benchmark.num_clients
    together = assembly.plan.execution in ("stacked-kernels", "vmap")
    size = min(assembly.plan.cohort_size, everyone) if together else 1
    cohort = worker.cohort(range(size), 0)
    start = {n: t.to(worker.compute) for n, t in repeat(initial(assembly.model), size).items()}
    side_by_side = max(1, min(workers, math.ceil(everyone / size)))

    def each(seconds: float) -> float:
        """Of the time of a cohort, what a client adds to that of the run."""
        return seconds / size / side_by_side

    training = local_training(config)
    step = each(_step(cohort, start, training.batch_size, _fit(config)))
    steps = _mean([-(-benchmark.num_train_examples(d) // training.batch_size) for d in range(size)])
    sampled = max(1, int(config.fraction * seen + 0.5))
    evaluated = min(config.evaluate_clients or everyone, everyone)
    looked_at = min(config.evaluate_clients or ON_THE_WAY, everyone)
    every = config.evaluate_every or max(1, config.rounds // 10)
    score = each(_score(cohort, start))
    tests = _mean([len(split.test) for split in cohort.splits])
    looks = looked_at * (1 + (rounds - 1) // every)
    # It is done once more for each fold.
    folds = FOLDS if config.serve == "best-on-adapt" or config.confidence else 0
    adaptation = sum(
        _adaptation(part, cohort, start) * (1 + folds * whole.reads_adapt)
        for whole in worker.adaptations
        for part in whole.in_turn()
    )
    labels = len(worker.adaptations) + config.local
    return Estimate(
        training=rounds * sampled * training.epochs * steps * step,
        alone=evaluated * local_epochs(config) * steps * step * config.local,
        adaptation=evaluated * each(adaptation),
        evaluation=(looks + evaluated * labels) * tests * score,
    )


def _fit(config: RunConfig) -> Callable[[Cohort, Weights], object]:
    training = local_training(config)
    once = Schedule(training.batch_size, 1, "train", "estimate")
    return lambda cohort, start: fit(cohort, start, training.optimizer, once)


def _step(
    cohort: Cohort, start: Weights, batch_size: int, run: Callable[[Cohort, Weights], object]
) -> float:
    """Seconds of a pass over one batch of each client."""
    small = replace(cohort, splits=tuple(_first(s, batch_size) for s in cohort.splits))
    return _fastest(lambda: run(small, start))


def _score(cohort: Cohort, start: Weights) -> float:
    """Seconds to score one test image of each client."""
    tests = [_cut(split.test, TRIED) for split in cohort.splits]
    return _fastest(lambda: evaluate(cohort, start, tests)) / max(len(test) for test in tests)


def _adaptation(method: Adaptation, cohort: Cohort, start: Weights) -> float:
    """Seconds of an adaptation of the whole cohort, from one batch of each client.

    What it does once (EWC's Fisher, say) is told from what it does each epoch by a second epoch.
    """
    settings: dict[str, Any] = {f.name: getattr(method, f.name) for f in fields(method)}
    if "batch_size" not in settings:
        return 0.0

    def timed(epochs: int) -> float:
        shortened = {"stage": 0, "epochs": epochs}
        short: Adaptation = replace(
            method,
            **{n: v for n, v in shortened.items() if n in settings},  # type: ignore[arg-type]
        )
        return _step(cohort, start, settings["batch_size"], lambda small, w: short.adapt(small, w))

    images = [len(examples) for examples in cohort.part(settings.get("part", "adapt"))]
    steps = settings.get("epochs", 1) * _mean([-(-n // settings["batch_size"]) for n in images])
    with suppress(Exception):  # one that fails is on record at its evaluation, not here
        once = timed(1)
        more = once if steps <= 1 or "epochs" not in settings else timed(2) - once
        return once + max(0.0, steps - 1) * max(more, LEAST * once)
    return 0.0


def _fastest(call: Callable[[], object]) -> float:
    fastest, spent = math.inf, 0.0
    for _ in range(REPEATS):
        began = time.perf_counter()
        call()
        seconds = time.perf_counter() - began
        fastest, spent = min(fastest, seconds), spent + seconds
        if spent > ENOUGH:
            break
    return fastest


def _first(split: Split, count: int) -> Split:
    return split._replace(train=_cut(split.train, count), adapt=_cut(split.adapt, count))


def _cut(examples: Examples, count: int) -> Examples:
    return type(examples)(examples.inputs[:count], examples.labels[:count])


def _mean(numbers: Sequence[int]) -> float:
    return sum(numbers) / len(numbers)
