"""Notes on how many clients the numbers of a run are over, where not all were evaluated."""

from collections import Counter

from fedadapt.simulations.results.accuracies import Accuracies
from fedadapt.simulations.results.run_folder import RunFolder


def at_the_end(run: RunFolder, accuracies: Accuracies) -> str:
    """Return ``1,000 of 100,000 clients were evaluated; ``, or "" where all were."""
    num_clients = run.config.get("clients")
    if not isinstance(num_clients, int) or not 0 < len(accuracies) < num_clients:
        return ""
    return f"{len(accuracies):,} of {num_clients:,} clients were evaluated; "


def on_the_way(run: RunFolder) -> str:
    """Return a note where fewer clients were evaluated before the end than at it, else ""."""
    clients = Counter(
        row.round
        for row in run.evaluations
        if row.split == "test" and row.label == "base" and not (row.epoch or row.task)
    )
    end = max(clients, default=0)
    before = max((number for round, number in clients.items() if round < end), default=0)
    if not 0 < before < clients[end]:
        return ""
    return f"Before the end {before:,} clients were evaluated, at the end {clients[end]:,}."
