"""Collect accuracies by method, rule, seed and client from the runs of a PFA experiment."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedadapt.config import RunConfig, parse_arguments
from fedadapt.errors import InputError
from fedadapt.reproductions.model_selection import RULES, Curve, curve
from fedadapt.reproductions.pfa.plan import LOCAL, Experiment
from fedadapt.server.clustering.grouping import group_clients
from fedadapt.simulations.results.groups import GROUPS
from fedadapt.simulations.results.parquet import read_evaluations

METHODS = {
    "Baseline": ("federated", "base"),
    "PFA": ("pfa", "personal"),
    "PFA, number found": ("found", "personal"),
    "Random": ("random", "personal"),
}


@dataclass(frozen=True, eq=False)
class Results:
    """The measured results of all seeds."""

    seeds: tuple[int, ...]
    kinds: tuple[str, ...]  # of each client
    accuracy: dict[str, dict[str, NDArray[np.float64]]]  # method -> rule -> [seeds, clients]
    curves: dict[str, list[Curve]]  # method -> one a seed
    groups: list[dict[str, dict[str, Any]]]  # one a seed: of "pfa" and "found", as groups.json

    @property
    def kind_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.kinds))

    def by_kind(self, method: str, rule: str) -> NDArray[np.float64]:
        """Return the means over the clients of each kind, and over kinds: [seeds, kinds + 1]."""
        values = self.accuracy[method][rule]
        kinds = np.array(self.kinds, dtype=object)
        means = [values[:, kinds == kind].mean(1) for kind in self.kind_names]
        return np.stack([*means, np.mean(means, axis=0)], axis=1)


def collect(experiment: Experiment, seeds: Sequence[int], folder: Path) -> Results:
    """Read the finished runs of all seeds."""
    accuracy: dict[str, dict[str, list[NDArray[np.float64]]]] = {}
    curves: dict[str, list[Curve]] = {}
    groups = []
    kinds: tuple[str, ...] = ()
    for seed in seeds:
        runs = {name: Path(config.out) for name, config in experiment.runs(seed, folder)}
        if not (runs["found"] / GROUPS).exists():  # its groups are the given ones
            runs["found"] = runs["pfa"]
        rows = {name: read_evaluations(out) for name, out in runs.items()}
        groups.append({name: _groups(runs[name]) for name in ("pfa", "found")})
        kind_of = {row.client: row.kind for row in rows["federated"] if row.client >= 0}
        kinds = tuple(kind_of[d] for d in sorted(kind_of))
        lines = {m: curve(rows[n], label) for m, (n, label) in METHODS.items() if n in rows}
        lines |= {m: curve(rows["federated"], "base", how) for m, how in LOCAL.items()}
        for method, line in lines.items():
            curves.setdefault(method, []).append(line)
            units = _units(method, runs, line)
            for rule in RULES:
                by_rule = accuracy.setdefault(method, {})
                by_rule.setdefault(rule, []).append(line.chosen(rule, units))
    stacked = {m: {r: np.stack(v) for r, v in rules.items()} for m, rules in accuracy.items()}
    return Results(tuple(seeds), kinds, stacked, curves, groups)


def finds_the_same_groups(pfa: RunConfig) -> bool:
    """Whether PFA finds the groups of this run by itself: another run would be identical."""
    groups = _groups(Path(pfa.out))
    method = str(parse_arguments(pfa.strategy_args, "strategy-args").get("method", "efficient"))
    grouping = group_clients(torch.tensor(groups["vectors"]), method=method, seed=pfa.seed)
    return bool(grouping.labels.tolist() == groups["labels"])


def _units(method: str, runs: dict[str, Path], line: Curve) -> list[list[int]] | None:
    """Return the groups of clients that choose a round together.

    All for the federated model, a group for its own, each client for what it does alone.
    """
    if method in LOCAL:
        return [[d] for d in range(len(line.clients))]
    if method == "Baseline":
        return None
    label_of = _labels(runs[METHODS[method][0]])
    labels = [label_of[client] for client in line.clients]
    return [
        [d for d, client_label in enumerate(labels) if client_label == label]
        for label in sorted(set(labels))
    ]


def _labels(run: Path) -> dict[int, int]:
    groups = _groups(run)
    return dict(zip(groups["clients"], groups["labels"], strict=True))


def _groups(run: Path) -> dict[str, Any]:
    path = run / GROUPS
    try:
        groups: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; it is written by a run of PFA") from None
    return groups
