"""The lines of ``fedadapt benchmarks`` for benchmarks with tasks. No torch, no numpy."""

from typing import NamedTuple

from fedadapt.datasets.listing import benchmark_rows
from fedadapt.datasets.task_incremental.indoor_files import indoor_root
from fedadapt.datasets.task_incremental.task_entries import TASK_ENTRIES, TaskEntry
from fedadapt.errors import InputError


class TaskRow(NamedTuple):
    """A line of ``fedadapt benchmarks``."""

    name: str
    description: str
    tasks: int
    users: int  # the benchmark's own number
    default: str  # partition, and shift where there is one
    found: bool


def task_rows(given_root: str = "") -> list[TaskRow]:
    """Each benchmark with tasks, and whether its images are there."""
    here = {row.name: row.found for row in benchmark_rows(given_root)}
    return [
        TaskRow(
            entry.name,
            entry.description,
            len(entry.tasks),
            entry.clients,
            entry.partition + f", {entry.shift}" * (entry.shift != "none"),
            _is_found(entry, here, given_root),
        )
        for entry in TASK_ENTRIES
    ]


def _is_found(entry: TaskEntry, here: dict[str, bool], given_root: str) -> bool:
    if entry.indoor:
        try:
            indoor_root(given_root)
        except InputError:
            return False
        return True
    if len(entry.data) == 3:  # the third data set stands in for the second
        first, *others = entry.data
        return here[first] and any(here[name] for name in others)
    return all(here[name] for name in entry.data)
