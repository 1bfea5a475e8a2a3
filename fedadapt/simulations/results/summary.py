"""The summary of a run, ``summary.json``, and the same numbers by kind of client.

The definitions are also in ``docs/evaluation.md``. Every client counts once, however many images it
has.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from fedadapt.config import RUNNING, RunConfig, adaptations_of
from fedadapt.errors import InputError
from fedadapt.parameters import Scalar
from fedadapt.records import (
    LOCAL,
    CommunicationEntry,
    Confidence,
    Evaluation,
    EvaluationFailure,
    Outcome,
    Phase,
    RoundLoss,
)
from fedadapt.saved_models.card import label as label_of
from fedadapt.simulations.results.accuracies import (
    TOLERANCE,
    Accuracies,
    last_accuracies,
    order_labels,
)
from fedadapt.simulations.results.by_class import by_class
from fedadapt.simulations.results.calibration import sureness
from fedadapt.simulations.results.forgetting import task_scores
from fedadapt.simulations.results.parquet import Rows, put
from fedadapt.simulations.results.serving import chosen_models

SUMMARY = "summary.json"
REFUSED = "egress: "  # begins the reason of what the owner of a client does not allow
DIGITS = 6


def summarise(
    config: RunConfig,
    manifest_hash: str,
    evaluations: Sequence[Evaluation] | Rows[Evaluation],
    communication: Iterable[CommunicationEntry],
    losses: Iterable[RoundLoss],
    seconds: float,
    failures: Iterable[EvaluationFailure] = (),
    confidences: Iterable[Confidence] = (),
    *,
    by_task: bool = False,
    withheld: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return what ``summary.json`` holds; the same rows in any order give the same summary.

    Accuracies are those of the last evaluated round, on the clients' own test images.

    Args:
        evaluations: A list or ``Rows``, since they are read more than once.
        by_task: A round is a task: accuracy and forgetting of each task are part of the summary.
        withheld: How many clients do not tell something, by what they do not tell.

    """
    adaptations = requested(config)
    accuracies = last_accuracies(evaluations, adaptations)
    everybody = last_accuracies(evaluations, adaptations, split="global")
    outcomes: Counter[str] = Counter()
    client_seconds = 0.0
    refusals: Counter[str] = Counter()
    travelled = {phase: {"bytes_up": 0, "bytes_down": 0} for phase in get_args(Phase)}
    for entry in communication:
        outcomes[entry.outcome] += 1
        if entry.reason.startswith(REFUSED):
            refusals[entry.reason.removeprefix(REFUSED)] += 1
        travelled[entry.phase]["bytes_up"] += entry.bytes_up
        travelled[entry.phase]["bytes_down"] += entry.bytes_down
        client_seconds += entry.seconds if entry.phase == "training" else 0.0
    failed = Counter(f.label for f in failures if f.round == accuracies.round)
    summary: dict[str, Any] = {
        "benchmark": config.benchmark,
        "manifest": manifest_hash,
        "strategy": config.strategy,
        "strategy_args": config.strategy_args,
        "model": config.model,
        "batch_norm": config.batch_norm,
        "clients": config.clients,
        "rounds": config.rounds,
        "seed": config.seed,
        "adapt_args": config.adapt_args,
        "settings": told_apart_by(config),
        "evaluated_round": accuracies.round,
        "clients_evaluated": int(accuracies.seen.sum()),
        "accuracy": with_failed(by_label(accuracies.where(accuracies.seen)), failed, adaptations),
    }
    metrics = by_class(evaluations, accuracies.round)
    summary["by_class"] = {
        label: metrics[label] for label in summary["accuracy"] if label in metrics
    }
    if withheld:
        summary["withheld"] = dict(withheld)
    if refusals:
        summary["refused"] = dict(sorted(refusals.items()))
    if failed:
        summary["failed_evaluations"] = dict(sorted(failed.items()))
    chosen = {}
    if config.serve == "best-on-adapt":
        chosen = chosen_models(evaluations, accuracies.round)
        counts = Counter(label_of(*words) for words in chosen.values())
        summary["served"] = dict(counts.most_common())
    if config.confidence:
        last = (row for row in confidences if row.round == accuracies.round)
        found = sureness(last, adaptations, chosen)
        summary["confidence"] = {label: asdict(how) for label, how in found.items()}
    if not accuracies.seen.all():
        summary["accuracy_unseen"] = by_label(accuracies.where(~accuracies.seen))
    if by_task:
        scores = task_scores(evaluations, adaptations)
        summary["tasks"] = {label: of_label.metadata() for label, of_label in scores.items()}
    seen = everybody.where(everybody.seen)
    return rounded(
        summary
        | {
            "global_test": {label: np.nanmean(a) for label, a in seen.by_label.items()},
            "global_test_clients": {
                label: int((~np.isnan(a)).sum()) for label, a in seen.by_label.items()
            },
            "train_loss": max(losses, default=RoundLoss(0, math.nan, 0)).loss,
            "messages": outcomes.total(),
            "outcomes": {outcome: outcomes[outcome] for outcome in get_args(Outcome)},
            **travelled["training"],
            "evaluation": travelled["evaluation"],
            "seconds": seconds,
            "client_seconds": client_seconds,
        }
    )


def requested(config: RunConfig) -> tuple[str, ...]:
    """Return the names of the local adaptations of a run, as it was asked for them."""
    return adaptations_of(config.adapt)


def told_apart_by(config: RunConfig) -> dict[str, Scalar]:
    """Return the settings that are not the defaults, of those that bear on what is computed."""
    values = config.to_mapping()
    told = config.changed - (frozenset(RUNNING) - {"rounds"})
    return {key: value for key, value in values.items() if key in told}


def by_label(accuracies: Accuracies) -> dict[str, dict[str, float | int | None]]:
    """Return the numbers that ``describe`` gives for each label."""
    return {
        label: describe(values, accuracies.gain(label), accuracies.gain(label, LOCAL))
        for label, values in accuracies.by_label.items()
    }


def with_failed(
    described: dict[str, dict[str, float | int | None]],
    failed: Iterable[str],
    adaptations: Sequence[str] = (),
) -> dict[str, dict[str, float | int | None]]:
    """Return ``described`` with a row for each label that failed on every client.

    Such a row is over no client; without it the label would be missing.
    """
    nobody = describe(*[np.empty(0)] * 3)
    labels = order_labels((*described, *failed), adaptations)
    return {label: described.get(label, nobody) for label in labels}


def describe(
    accuracy: NDArray[np.float64],
    gain: NDArray[np.float64],
    over_local: NDArray[np.float64] | None = None,
) -> dict[str, float | int | None]:
    """Return a summary over clients of accuracies, in [0, 1], and of gains, each [D].

    NaN stands for a client without such a model. ``gain`` is over the base, ``over_local`` over
    training alone. ``share_below_local`` is the share of clients that training alone serves better.
    ``std`` is the population's (divided by D): the clients are all there are, not a sample.
    ``worst10`` is the mean over the ceil(D / 10) least accurate clients. ``share_worse`` is the
    share of clients whose gain is below zero. A number without any client is None.
    """
    accuracy = np.sort(accuracy[~np.isnan(accuracy)])
    gain = np.sort(gain[~np.isnan(gain)])
    over = np.empty(0) if over_local is None else np.sort(over_local[~np.isnan(over_local)])
    worst = -(-len(accuracy) // 10)  # ceil, in whole numbers
    return {
        "mean": float(accuracy.mean()) if len(accuracy) else None,
        "std": float(accuracy.std()) if len(accuracy) else None,
        "worst10": float(accuracy[:worst].mean()) if len(accuracy) else None,
        "min": float(accuracy[0]) if len(accuracy) else None,
        "gain": float(gain.mean()) if len(gain) else None,
        "share_worse": float((gain < -TOLERANCE).mean()) if len(gain) else None,
        "over_local": float(over.mean()) if len(over) else None,
        "share_below_local": float((over < -TOLERANCE).mean()) if len(over) else None,
        "num_clients": len(accuracy),
    }


class KindRow(NamedTuple):
    """Mean accuracies and gains of the clients of one kind, either seen or unseen ones."""

    kind: str
    seen: bool
    num_clients: int
    accuracy: dict[str, float]  # label -> mean over these clients
    gain: dict[str, float]  # label -> mean gain; a label without a base beside it is left out
    counted: dict[str, int]  # label -> clients that the means are over


def per_kind(accuracies: Accuracies) -> list[KindRow]:
    """Return mean accuracy and gain of each kind of client.

    Kinds of seen clients come before those of unseen ones, each in alphabetical order.
    """
    kinds = np.array(accuracies.kind, dtype=object)
    rows = []
    for seen in (True, False):
        for kind in sorted({*kinds[accuracies.seen == seen]}):
            part = accuracies.where((accuracies.seen == seen) & (kinds == kind))
            metadata = by_label(part)
            rows.append(
                KindRow(
                    kind,
                    seen,
                    len(part),
                    {label: f["mean"] for label, f in metadata.items() if f["mean"] is not None},
                    {label: f["gain"] for label, f in metadata.items() if f["gain"] is not None},
                    {label: int(f["num_clients"] or 0) for label, f in metadata.items()},
                )
            )
    return rows


def rounded(value: Any) -> Any:
    """Return a value, or a nested dictionary, with floats rounded to six digits.

    A float that is not finite becomes None.
    """
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    if isinstance(value, float):  # numpy's float64 is one
        return round(float(value), DIGITS) + 0.0 if math.isfinite(value) else None  # no -0.0
    return value


def write_summary(folder: Path, summary: dict[str, Any]) -> Path:
    """Write ``summary.json`` in one step; the same summary gives the same bytes."""
    text = json.dumps(rounded(summary), indent=2, ensure_ascii=False, allow_nan=False)
    return put(folder / SUMMARY, f"{text}\n".encode())


def read_summary(folder: Path) -> dict[str, Any]:
    """Read ``summary.json``.

    Raises:
        InputError: It is missing or damaged.

    """
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; a finished run has one") from None
    if not isinstance(summary, dict):
        raise InputError(f"{path}: holds no JSON object; a finished run writes one")
    return summary
