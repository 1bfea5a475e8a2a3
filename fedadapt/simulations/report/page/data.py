"""What the page's script is given: a run as one object that becomes JSON.

Numbers of clients are columns, and accuracies are whole numbers of ten thousandths, so that a
thousand clients take some tens of kilobytes.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from fedadapt.records import Evaluation
from fedadapt.simulations.report.label_counts import read_label_counts
from fedadapt.simulations.report.style import colour_of
from fedadapt.simulations.results.accuracies import Accuracies
from fedadapt.simulations.results.calibration import COVERAGES, Sureness
from fedadapt.simulations.results.run_folder import RunFolder
from fedadapt.simulations.results.summary import per_kind

SCALE = 10_000  # accuracies are whole numbers of these
HISTORY_SCALE = 1_000
HISTORY = 60_000  # accuracies of earlier rounds that a page holds; of more, every so many rounds
MOST_COUNTS = 60_000  # numbers about images by class that a page holds; of more it has none
DECILES = (10, 90)


def page_data(
    run: RunFolder, accuracies: Accuracies, confidence: Mapping[str, Sureness]
) -> dict[str, Any]:
    """Return everything that is drawn, as lists, numbers and words."""
    kinds = sorted({*accuracies.kind})
    code = {kind: i for i, kind in enumerate(kinds)}
    rounds, history = _by_round(run.evaluations, accuracies)
    return {
        "labels": list(accuracies.labels),
        "final": accuracies.final,
        "kinds": kinds,
        "scale": SCALE,
        "clients": {
            "client": accuracies.client.tolist(),
            "kind": [code[kind] for kind in accuracies.kind],
            "seen": accuracies.seen.astype(int).tolist(),
            "images": accuracies.num_examples.tolist(),
            "accuracy": {
                label: _whole(values, SCALE) for label, values in accuracies.by_label.items()
            },
        },
        "rounds": rounds,
        "history": history["curves"],
        "history_rounds": history["rounds"],
        "losses": [[row.round, row.loss, row.num_clients] for row in run.losses],
        "by_kind": [
            {
                "kind": row.kind,
                "seen": row.seen,
                "label": label,
                "accuracy": round(accuracy, 6),
                "clients": row.counted[label],
            }
            for row in per_kind(accuracies)
            for label, accuracy in row.accuracy.items()
        ],
        "messages": _messages(run, accuracies),
        **_images(run, accuracies),
        "confidence": {
            label: {"coverages": COVERAGES.round(2).tolist(), **asdict(found)}
            for label, found in confidence.items()
        },
        **_tasks(run.summary),
    }


def colours(labels: tuple[str, ...]) -> dict[str, str]:
    """Return the colour of each label, as in the run's pictures."""
    return {label: colour_of(label, labels) for label in labels}


def _by_round(
    evaluations: Iterable[Evaluation], accuracies: Accuracies
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the base model's mean and deciles by round, and each client's accuracy by round.

    The accuracy of a client that is scored on several tasks is its mean over those.
    """
    tasks: dict[str, dict[int, dict[int, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    seen = set()
    for row in evaluations:
        if row.split == "test" and not row.epoch and row.adaptation == "none":
            tasks[row.label][row.round][row.client].append(row.accuracy)
            if row.seen:
                seen.add(row.client)
    curves = {
        label: {
            number: {client: sum(of) / len(of) for client, of in by_client.items()}
            for number, by_client in by_round.items()
        }
        for label, by_round in tasks.items()
    }
    rounds = []
    for number, by_client in sorted(curves.get("base", {}).items()):
        values = [accuracy for client, accuracy in by_client.items() if client in seen]
        if not values:
            continue
        low, high = np.percentile(values, DECILES)
        mean = float(np.mean(values))
        deciles = {"low": round(float(low), 4), "high": round(float(high), 4)}
        rounds.append({"round": number, "mean": round(mean, 4), **deciles, "clients": len(values)})
    return rounds, _history(curves, accuracies)


def _history(
    curves: Mapping[str, Mapping[int, Mapping[int, float]]], accuracies: Accuracies
) -> dict[str, Any]:
    """Return the curves of models that were evaluated more than once, thinned to ``HISTORY``."""
    kept = {label: by_round for label, by_round in curves.items() if len(by_round) > 1}
    numbers = sorted({number for by_round in kept.values() for number in by_round})
    count = len(accuracies) * len(kept)
    most = HISTORY // count if count else 0
    if most < 2:
        return {"rounds": [], "curves": []}
    if len(numbers) > most:
        chosen = np.linspace(0, len(numbers) - 1, most).round().astype(int)
        numbers = [numbers[i] for i in chosen]
    clients = accuracies.client.tolist()
    return {
        "rounds": numbers,
        "curves": [
            {
                "label": label,
                "accuracy": [
                    _whole([by_round.get(n, {}).get(c, np.nan) for n in numbers], HISTORY_SCALE)
                    for c in clients
                ],
            }
            for label, by_round in kept.items()
        ],
    }


def _messages(run: RunFolder, accuracies: Accuracies) -> list[dict[str, Any]]:
    """Return for each kind of message how many each client had, and what travelled."""
    place = {client: i for i, client in enumerate(accuracies.client.tolist())}
    totals: dict[tuple[str, str], dict[str, list[int]]] = {}
    names = ("times", "down", "up", "unused")
    for entry in run.communication:
        if entry.client not in place:
            continue
        key = (entry.action, entry.phase)
        if key not in totals:
            totals[key] = {name: [0] * len(place) for name in names}
        added = (1, entry.bytes_down, entry.bytes_up, int(entry.outcome != "accepted"))
        for name, value in zip(names, added, strict=True):
            totals[key][name][place[entry.client]] += value
    return [
        {"action": action, "phase": phase, **columns} for (action, phase), columns in totals.items()
    ]


def _images(run: RunFolder, accuracies: Accuracies) -> dict[str, Any]:
    """Return for each client its images by class: class, train, adapt, test, class, train, ..."""
    counts = read_label_counts(run.folder)
    if counts is None:
        return {"classes": [], "images_by_class": []}
    columns = [
        [number for row in counts.of_client.get(client, []) for number in row]
        for client in accuracies.client.tolist()
    ]
    if sum(map(len, columns)) > MOST_COUNTS:
        return {"classes": [], "images_by_class": []}
    return {"classes": counts.classes, "images_by_class": columns}


def _tasks(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the accuracy on each task after each task, of runs that learn tasks."""
    rows = [
        {"label": label, "after": after, "task": task, "accuracy": accuracy}
        for label, scores in summary.get("tasks", {}).items()
        for after, row in enumerate(scores["matrix"])
        for task, accuracy in enumerate(row)
        if accuracy is not None
    ]
    return {"tasks": rows, "task_labels": list(dict.fromkeys(row["label"] for row in rows))}


def _whole(values: Any, scale: int) -> list[int | None]:
    numbers = np.asarray(values, np.float64)
    return [None if np.isnan(v) else round(v * scale) for v in numbers.tolist()]
