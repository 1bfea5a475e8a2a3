"""Every task-incremental benchmark, and what can be refused before its data are opened.

No torch, no numpy. What a user holds is set by two words of the run: ``partition`` (which images)
and ``shift`` (what its camera does to them).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from fedadapt.config import RunConfig
from fedadapt.datasets.catalog import check_root, data_root, find, need, rows
from fedadapt.datasets.entries import CATALOG, Entry
from fedadapt.datasets.partitioning.spec import Shift, parse_shift
from fedadapt.errors import InputError, unknown

CATEGORY_PRIOR, SAME_IMAGES, DOMAINS = "category-prior", "same-images", "domains"
NATIVE = "native-"
"""Before ``corruptions:S``: spoilt at native resolution and then cut, not resized (DUA's code)."""
NUM_CORRUPTIONS = 10
INDOOR_LAYOUT = "indoorCVPR_09/Images/<class>/*.jpg with TrainImages.txt and TestImages.txt"


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


_PAIRS = tuple(f"{first}+{first + 1}" for first in range(0, 10, 2))
_PLACES = ("home", "leisure", "public", "store")
NAMED: tuple[TaskEntry, ...] = (
    TaskEntry("dua-numbers", "DUA, sec. 5: pairs of digits of MNIST and SVHN (USPS without it)",
              2, DOMAINS, "none", _PAIRS, ("mnist", "svhn", "usps")),
    TaskEntry("dua-catprior", "DUA, sec. 5: indoor scenes, users who prefer categories",
              5, CATEGORY_PRIOR, "none", _PLACES, indoor=True, fixed_users=True),
    TaskEntry("dua-transprior", "DUA, sec. 5: indoor scenes, users with a corruption each",
              10, SAME_IMAGES, "corruptions:3", _PLACES, indoor=True),
    TaskEntry("cifar10-tasks", "pairs of CIFAR-10's classes, users with a corruption each",
              10, SAME_IMAGES, "corruptions:3", _PAIRS, ("cifar10",), free=True),
    TaskEntry("digits-tasks", "pairs of scikit-learn's digits, users who prefer classes",
              5, CATEGORY_PRIOR, "none", _PAIRS, free=True),
)  # fmt: skip


def _pairs_of(entry: Entry) -> TaskEntry:
    """Of a data set with a test part: pairs of its classes; an odd last class is left out."""
    pairs = tuple(f"{first}+{first + 1}" for first in range(0, entry.classes - 1, 2))
    about = f"pairs of classes of {entry.name}, users with a corruption each"
    data = (entry.name,)
    return TaskEntry(
        f"{entry.name}-tasks", about, 10, SAME_IMAGES, "corruptions:3", pairs, data, free=True
    )


TASK_CATALOG: tuple[TaskEntry, ...] = (
    *NAMED,
    *(
        _pairs_of(entry)
        for entry in CATALOG
        if entry.files and not entry.data and not entry.folders and entry.name != "cifar10"
    ),
)


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
    here = {row.name: row.found for row in rows(given_root)}
    found = []
    for entry in TASK_CATALOG:
        there = all(here[name] for name in entry.data)
        if entry.partition == DOMAINS:  # the third stands in for the second
            first, *others = entry.data
            there = here[first] and any(here[name] for name in others)
        if entry.indoor:
            try:
                indoor_root(given_root)
            except InputError:
                there = False
        words = entry.partition + f", {entry.shift}" * (entry.shift != "none")
        count = len(entry.tasks)
        found.append(TaskRow(entry.name, entry.description, count, entry.clients, words, there))
    return found


class UserRule(NamedTuple):
    """How users are made."""

    partition: str  # category-prior, same-images or domains
    images: int  # the number after its colon; 0: the benchmark's own
    shift: Shift
    native: bool = False

    @property
    def words(self) -> dict[str, object]:
        """As facts of a manifest."""
        shift = ":".join(filter(None, (self.shift.name, self.shift.corruption)))
        shift += f":{self.shift.severity}" if self.shift.severity else ""
        return {
            "partition": f"{self.partition}:{self.images}" if self.images else self.partition,
            "shift": NATIVE * self.native + shift,
        }


def find_tasks(benchmark: str) -> TaskEntry:
    """The entry of a task-incremental benchmark.

    Raises:
        InputError: No such benchmark.

    """
    by_name = {entry.name: entry for entry in TASK_CATALOG}
    if benchmark not in by_name:
        raise unknown("benchmark", benchmark, tuple(by_name))
    return by_name[benchmark]


def is_tasks(benchmark: str) -> bool:
    """Whether it is one of those here."""
    return any(entry.name == benchmark for entry in TASK_CATALOG)


def num_users(entry: TaskEntry, config: RunConfig) -> int:
    """How many users there are; ``clients=0``: the benchmark's own number."""
    return config.clients or entry.clients


def user_rule(entry: TaskEntry, config: RunConfig) -> UserRule:
    """Read ``partition`` and ``shift``.

    Where one is given and the other is not: users who prefer categories have plain cameras, and
    users with cameras of their own hold the same images.

    Raises:
        InputError: Words that are not understood, or that do not fit the benchmark.

    """
    partition, shift = config.partition or entry.partition, config.shift or entry.shift
    if entry.free and config.partition and not config.shift:
        shift = "corruptions:3" if partition.startswith(SAME_IMAGES) else "none"
    elif entry.free and config.shift and not config.partition:
        partition = CATEGORY_PRIOR if shift == "none" else SAME_IMAGES
    word, colon, number = partition.partition(":")
    allowed = (CATEGORY_PRIOR, SAME_IMAGES) if entry.free else (entry.partition,)
    if word not in allowed:
        raise unknown("partition", word, allowed)
    counts = 0 < len(number) <= 9 and number.isdecimal() and int(number) >= 1
    if colon and (word == DOMAINS or not counts):
        what = "takes no number" if word == DOMAINS else "takes a whole number >= 1"
        raise InputError(f"partition: {partition!r}: {word} {what}; write {word}")
    native = entry.shift != "none" and entry.indoor and shift.startswith(NATIVE)
    rule = UserRule(
        word, int(number or 0), parse_shift(shift.removeprefix(NATIVE) if native else shift), native
    )
    if not entry.free and rule.shift.name != parse_shift(entry.shift).name:
        raise InputError(f"shift: {shift!r}; {entry.name} has {entry.shift}: leave shift out")
    return rule


_FIXED = ("quantity", "imbalance", "unseen", "split", "adapt_share", "test_share")


def check(config: RunConfig) -> None:
    """Refuse everything about the data that can be refused without opening them.

    Raises:
        InputError: One line naming the key or the file, and what to do.

    """
    entry = find_tasks(config.benchmark)
    rule = user_rule(entry, config)
    defaults = {f.name: f.default for f in fields(RunConfig)}
    for key in _FIXED:
        if getattr(config, key) != defaults[key]:
            raise InputError(
                f"{key.replace('_', '-')}: {getattr(config, key)}; users of {entry.name} hold "
                "halves of what they have: leave it out"
            )
    users = num_users(entry, config)
    if entry.fixed_users and users != entry.clients:
        raise InputError(
            f"clients: {users}; the preferences of {entry.name} are those of {entry.clients} "
            f"users: set clients={entry.clients}"
        )
    if rule.partition == DOMAINS and users < 2:
        raise InputError(f"clients: {users}; {entry.name} needs a user for each of two domains")
    if config.image_size and not 4 <= config.image_size <= 1024:
        raise InputError(
            f"image-size: {config.image_size} is out of range; it must be 4 to 1024, or 0"
        )
    if 0 < config.examples < 2:
        raise InputError("examples: 1 image cannot show two classes; it must be >= 2, or 0 for all")
    if entry.indoor:
        indoor_root(config.data_root)
    elif entry.data:
        check_root(find(entry.data[0]), config.data_root)
    if rule.shift.name == "corruptions" or rule.shift.corruption == "spatter":
        need("cv2", "the spatter corruption")


def indoor_root(given: str) -> Path:
    """The folder of MIT Indoor Scenes: the one that holds ``Images``.

    Raises:
        InputError: No data root, or nothing of that layout in it.

    """
    root = data_root(given)
    if root is None:
        raise InputError(
            "data-root: MIT Indoor Scenes are read from a folder and none is given; set "
            f"--data-root or FEDADAPT_DATA to where {INDOOR_LAYOUT} are"
        )
    folder = root / "indoorCVPR_09"
    lists = [_list_of(folder, name) for name in ("TrainImages.txt", "TestImages.txt")]
    if not (folder / "Images").is_dir() or not all(path.is_file() for path in lists):
        raise InputError(f"{root}: MIT Indoor Scenes are not there; put {INDOOR_LAYOUT} there")
    return folder


def indoor_lists(folder: Path) -> tuple[Path, Path]:
    """The official lists, beside ``Images`` or one folder up."""
    return _list_of(folder, "TrainImages.txt"), _list_of(folder, "TestImages.txt")


def _list_of(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_file() else folder.parent / name


def defaults_of_tasks(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of one of these benchmarks has where nothing is said: kebab-case keys."""
    name = given.get("benchmark", "")
    if not is_tasks(str(name)):
        return {}
    entry = find_tasks(name)
    return {"clients": entry.clients, "rounds": len(entry.tasks), "strategy": "mas-racl"}
