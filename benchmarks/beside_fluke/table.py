"""The tables of docs/beside-fluke.md, from the runs of ``measure.py``.

python -m benchmarks.beside_fluke.table --results runs.jsonl
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.beside_fluke.measure import RESULTS, done


class Pair(NamedTuple):
    """A model of ours and the one of fluke's beside it; a method and a label in its results."""

    title: str
    ours: tuple[str, str]
    theirs: tuple[str, str]
    why: str  # where they differ


OWN = "personal"
PAIRS = (
    Pair("FedAvg: the shared model", ("fedavg", "shared"), ("fedavg", "shared"), ""),
    Pair("FedAvg + fine-tune", ("fedavg+fine-tune", OWN), ("fedavg+fine-tune", OWN), ""),
    Pair("FedRep", ("fedrep", OWN), ("fedrep", OWN), ""),
    Pair("Ditto", ("ditto", OWN), ("ditto", OWN), "(a)"),
    Pair("FedBABU, shared", ("fedbabu", "shared"), ("fedbabu", "shared"), ""),
    Pair("FedBABU, fine-tuned", ("fedbabu", OWN), ("fedbabu", OWN), "(b)"),
    Pair("APFL", ("apfl", OWN), ("apfl", OWN), "(c)"),
    Pair("FedALA", ("fedala", OWN), ("fedala", OWN), ""),
    Pair(
        "FedProto, received prototypes", ("fedproto", OWN), ("fedproto", "received prototypes"), ""
    ),
    Pair(
        "FedProto, own classifier",
        ("fedproto, classifier", OWN),
        ("fedproto", "classifier"),
        "",
    ),
    Pair(
        "FedProto; fluke's: own prototypes",
        ("fedproto", OWN),
        ("fedproto", "own prototypes"),
        "(d)",
    ),
    Pair("FedAMP: what clients trained", ("fedamp", OWN), ("fedamp", OWN), ""),
    Pair("FedAMP; fluke's: the mixture", ("fedamp", OWN), ("fedamp", "mixture"), "(e)"),
)
MEANS = [pair for pair in PAIRS if pair.why not in ("(d)", "(e)")]


class Runs:
    """Accuracies of clients in per cent, by method, variant and seed."""

    def __init__(self, results: Path) -> None:
        self.found: dict[tuple[str, str, int], dict[str, Any]] = {}
        for run in done(results):
            self.found[run["method"], run["variant"], run["seed"]] = run
        self.seeds = sorted({seed for _, _, seed in self.found})
        for seed in self.seeds:
            manifests = {r["manifest"] for (_, _, s), r in self.found.items() if s == seed}
            if len(manifests) > 1:
                raise SystemExit(f"seed {seed}: runs of different images")

    def clients(self, method: str, variant: str, label: str) -> np.ndarray:
        """[seeds, clients]; fewer seeds where some are missing."""
        runs = [self.found.get((method, variant, seed)) for seed in self.seeds]
        return 100 * np.array([r["accuracy"][label] for r in runs if r is not None])

    def log(self, method: str) -> list[dict[str, dict[str, dict[str, float]]]]:
        runs = [self.found.get((method, "as-it-is", seed)) for seed in self.seeds]
        return [r["own_log"] for r in runs if r is not None]


def main_table(runs: Runs) -> list[str]:
    lines = [
        "| model | ours | fluke as it is | ours - fluke | within two standard deviations | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for pair in PAIRS:
        ours = runs.clients(pair.ours[0], "ours", pair.ours[1])
        theirs = runs.clients(pair.theirs[0], "as-it-is", pair.theirs[1])
        if len(ours) != len(theirs) or len(ours) < 2:
            continue
        a, b = ours.mean(1), theirs.mean(1)
        gap, spread = (a - b).mean(), (a - b).std(ddof=1)
        within = "yes" if abs(gap) <= 2 * spread else "no"
        cells = [_with_spread(a), _with_spread(b), f"{gap:+.2f} ({spread:.2f})", within, pair.why]
        lines.append(f"| {pair.title} | {' | '.join(cells)} |")
    return lines


def paired_table(runs: Runs) -> list[str]:
    """Both sides with the same batches in the same order."""
    lines = [
        "| model | fluke | ours - fluke, by seed | clients that differ | largest difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for pair in MEANS:
        for variant in ("batches", "mended"):
            theirs = runs.clients(pair.theirs[0], variant, pair.theirs[1])
            ours = runs.clients(pair.ours[0], "ours", pair.ours[1])
            count = min(len(ours), len(theirs))
            if not count or len(theirs) not in (1, len(ours)):
                continue
            apart = ours[:count] - theirs[:count]
            by_seed = ", ".join(f"{x:+.2f}" for x in apart.mean(1))
            differ = f"{int((abs(apart) > 1e-6).sum())} of {apart.size}"
            cells = [
                {"batches": "our batches", "mended": "the same, mended"}[variant],
                by_seed,
                differ,
                f"{abs(apart).max():.2f}",
            ]
            lines.append(f"| {pair.title} | {' | '.join(cells)} |")
    return lines


def log_table(runs: Runs) -> list[str]:
    """What fluke's own log says."""
    lines = [
        "| method | our way | fluke's log at the end | the best of its log | clients in it |",
        "| --- | --- | --- | --- | --- |",
    ]
    shown = {pair.theirs[0]: pair for pair in reversed(PAIRS) if pair.theirs[1] != "shared"}
    shown["fedavg"] = PAIRS[0]
    for method in ("fedavg", *(m for m in reversed(shown) if m != "fedavg")):
        pair, logs = shown[method], runs.log(method)
        theirs = runs.clients(method, "as-it-is", pair.theirs[1])
        if not logs:
            continue
        end = np.array([100 * log["post-fit"]["end"]["mean"] for log in logs])
        best = np.array(
            [100 * max(r["mean"] for phase in log.values() for r in phase.values()) for log in logs]
        )
        counts = {int(log["post-fit"]["end"]["clients"]) for log in logs}
        clients = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{min(counts)}"
        way = theirs.mean(1)
        cells = [
            f"{way.mean():.2f}",
            f"{end.mean():.2f} ({(end - way).mean():+.2f})",
            f"{best.mean():.2f} ({(best - way).mean():+.2f})",
            clients,
        ]
        lines.append(f"| {pair.title} | {' | '.join(cells)} |")
    return lines


def _with_spread(by_seed: np.ndarray) -> str:
    return f"{by_seed.mean():.2f} ({by_seed.std(ddof=1):.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    runs = Runs(given.results)
    for table in (main_table, paired_table, log_table):
        print("\n".join(table(runs)), end="\n\n")


if __name__ == "__main__":
    main()
