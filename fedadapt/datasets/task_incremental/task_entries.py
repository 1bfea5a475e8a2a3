"""The table of task-incremental benchmarks: what is known of each without opening it. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedadapt.datasets.entries import ENTRIES, DataEntry
from fedadapt.errors import unknown


@dataclass(frozen=True)
class TaskEntry:
    """What is known of a task-incremental benchmark without opening it."""

    name: str
    description: str
    clients: int  # the benchmark's own number, which ``clients=0`` means
    partition: str  # what an empty ``partition`` means
    shift: str  # what an empty ``shift`` means
    tasks: tuple[str, ...]
    data: tuple[str, ...] = ()  # the data sets its images are from; () = built in
    indoor: bool = False
    fixed_users: bool = False  # their preferences are listed: there are ``clients`` of them
    free: bool = False  # ``partition`` and ``shift`` may be chosen
    short_training: bool = True  # below 64 pixels, experts train as briefly as on DUA's digits


_PAIRS = tuple(f"{first}+{first + 1}" for first in range(0, 10, 2))
_PLACES = ("home", "leisure", "public", "store")
_PREFER, _SAME = "category-prior", "same-images"
NAMED: tuple[TaskEntry, ...] = (
    TaskEntry("dua-numbers", "DUA, sec. 5: pairs of digits of MNIST and SVHN (USPS without it)",
              2, "domains", "none", _PAIRS, ("mnist", "svhn", "usps")),
    TaskEntry("dua-catprior", "DUA, sec. 5: indoor scenes, users who prefer categories",
              5, _PREFER, "none", _PLACES, indoor=True, fixed_users=True),
    TaskEntry("dua-transprior", "DUA, sec. 5: indoor scenes, users with a corruption each",
              10, _SAME, "corruptions:3", _PLACES, indoor=True),
    TaskEntry("cifar10-tasks", "pairs of CIFAR-10's classes, users with a corruption each",
              10, _SAME, "corruptions:3", _PAIRS, ("cifar10",), free=True, short_training=False),
    TaskEntry("digits-tasks", "pairs of scikit-learn's digits, users who prefer classes",
              5, _PREFER, "none", _PAIRS, free=True),
)  # fmt: skip


def _pairs_of(entry: DataEntry) -> TaskEntry:
    """Pairs of the classes of a data set with a test part; an odd last class is left out."""
    return TaskEntry(
        f"{entry.name}-tasks",
        f"pairs of classes of {entry.name}, users with a corruption each",
        10,
        _SAME,
        "corruptions:3",
        tuple(f"{first}+{first + 1}" for first in range(0, entry.classes - 1, 2)),
        (entry.name,),
        free=True,
        short_training=not entry.natural,
    )


TASK_ENTRIES: tuple[TaskEntry, ...] = (
    *NAMED,
    *(
        _pairs_of(entry)
        for entry in ENTRIES
        if entry.num_test and not entry.data and entry.name != "cifar10"
    ),
)
_BY_NAME = {entry.name: entry for entry in TASK_ENTRIES}


def find_tasks(benchmark: str) -> TaskEntry:
    """The entry of a task-incremental benchmark.

    Raises:
        InputError: No such benchmark.

    """
    if benchmark not in _BY_NAME:
        raise unknown("benchmark", benchmark, tuple(_BY_NAME))
    return _BY_NAME[benchmark]


def is_tasks(benchmark: str) -> bool:
    """Whether a benchmark is a task-incremental one."""
    return benchmark in _BY_NAME


def defaults_of_tasks(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run on one of these benchmarks that are not given: kebab-case keys."""
    name = str(chosen.get("benchmark", ""))
    if not is_tasks(name):
        return {}
    entry = find_tasks(name)
    return {"clients": entry.clients, "rounds": len(entry.tasks), "strategy": "mas-racl"}
