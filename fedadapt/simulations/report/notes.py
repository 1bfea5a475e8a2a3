"""How many clients a run's numbers are over, in words, where they are not over all of them."""

from collections import Counter

from fedadapt.simulations.results.accuracies import Accuracies
from fedadapt.simulations.results.run_folder import RunFolder


def at_the_end(run: RunFolder, accuracies: Accuracies) -> str:
    """``1,000 of 100,000 clients were evaluated; ``; empty where all were."""
    there = run.config.get("clients")
    if not isinstance(there, int) or not 0 < len(accuracies) < there:
        return ""
    return f"{len(accuracies):,} of {there:,} clients were evaluated; "


def on_the_way(run: RunFolder) -> str:
    """Of very many clients only some are evaluated on the way; empty where all were."""
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
