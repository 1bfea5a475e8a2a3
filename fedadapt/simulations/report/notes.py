"""How many devices a run's numbers are over, in words, where they are not over all of them."""

from collections import Counter

from fedadapt.simulations.results.accuracies import Accuracies
from fedadapt.simulations.results.run_folder import RunFolder


def at_the_end(run: RunFolder, own: Accuracies) -> str:
    """``1,000 of 100,000 devices were evaluated; ``; empty where all were."""
    there = run.config.get("devices")
    if not isinstance(there, int) or not 0 < len(own) < there:
        return ""
    return f"{len(own):,} of {there:,} devices were evaluated; "


def on_the_way(run: RunFolder) -> str:
    """Of very many devices only some are evaluated on the way; empty where all were."""
    devices = Counter(
        row.round
        for row in run.evaluations
        if row.split == "test" and row.label == "base" and not (row.epoch or row.task)
    )
    end = max(devices, default=0)
    before = max((number for round, number in devices.items() if round < end), default=0)
    if not 0 < before < devices[end]:
        return ""
    return f"Before the end {before:,} devices were evaluated, at the end {devices[end]:,}."
