"""All settings that decide which images the server and its users have. No torch, no numpy."""

from dataclasses import dataclass, fields, replace

from fedadapt.config import RunConfig
from fedadapt.datasets.data_spec import check_image_size, check_shift
from fedadapt.datasets.feature_shift.spec import Shift, parse_shift
from fedadapt.datasets.rules import Rule, read_rule, table
from fedadapt.datasets.sources.files import check_root
from fedadapt.datasets.task_incremental.indoor_files import indoor_root
from fedadapt.datasets.task_incremental.task_entries import TaskEntry, find_tasks
from fedadapt.errors import InputError
from fedadapt.parameters import param

NATIVE = "native-"
"""Before ``corruptions:S``: applied at native resolution, then cut, not resized (DUA's code)."""


@dataclass(frozen=True)
class Users(Rule):
    """How the users of a task-incremental benchmark get their images."""


@dataclass(frozen=True)
class CategoryPrior(Users):
    """Each user prefers some classes of each task."""

    name = "category-prior"
    images: int | None = param(
        None, "images a task and user, or extra images of each preferred category", at_least=1,
        at_most=999_999_999,
    )  # fmt: skip


@dataclass(frozen=True)
class SameImages(Users):
    """All users hold the same images."""

    name = "same-images"
    images: int | None = param(None, "images a task", at_least=1, at_most=999_999_999)


@dataclass(frozen=True)
class DomainUsers(Users):
    """Each user holds one domain, or a mixture of two."""

    name = "domains"


USERS = table(CategoryPrior, SameImages, DomainUsers)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """The data of a run over tasks: a benchmark, how its users are made, and sizes."""

    entry: TaskEntry
    root: str  # the data root as given; empty: ``$FEDADAPT_DATA``
    users: Users
    shift: Shift
    native: bool  # corruptions at native resolution
    clients: int
    examples: int  # at most so many images of the server a task; 0: all
    image_size: int  # 0: the benchmark's own
    normalization: str
    weights: str  # the network's initial weights, which ``normalization=auto`` goes by
    seed: int

    @property
    def name(self) -> str:
        """The benchmark, as it was named."""
        return self.entry.name

    @property
    def written(self) -> dict[str, object]:
        """The rules for users, as facts of a manifest."""
        return {"partition": str(self.users), "shift": NATIVE * self.native + str(self.shift)}

    @staticmethod
    def of(config: RunConfig) -> "TaskSpec":
        """Read the settings of a run.

        Where one of ``partition`` and ``shift`` is given and the other is not: users who prefer
        classes have plain images, and users with shifts of their own hold the same images.

        Raises:
            InputError: No such benchmark, or rules that cannot be read or do not fit it.

        """
        entry = find_tasks(config.benchmark)
        partition, shift = config.partition or entry.partition, config.shift or entry.shift
        if entry.free and config.partition and not config.shift:
            shift = "corruptions:3" if partition.startswith(SameImages.name) else "none"
        elif entry.free and config.shift and not config.partition:
            partition = CategoryPrior.name if shift == "none" else SameImages.name
        allowed = (CategoryPrior.name, SameImages.name) if entry.free else (entry.partition,)
        users = read_rule("partition", partition, {name: USERS[name] for name in allowed})
        native = entry.shift != "none" and entry.indoor and shift.startswith(NATIVE)
        read = parse_shift(shift.removeprefix(NATIVE) if native else shift)
        if not entry.free and read.name != parse_shift(entry.shift).name:
            raise InputError(f"shift: {shift!r}; {entry.name} has {entry.shift}: leave shift out")
        return TaskSpec(
            entry=entry,
            root=config.data_root,
            users=users,
            shift=read,
            native=native,
            clients=config.clients or entry.clients,
            examples=config.examples,
            image_size=config.image_size,
            normalization=config.normalization,
            weights=config.weights,
            seed=config.seed,
        )

    @property
    def images(self) -> int | None:
        """The number of images in the rule for users; None where none is written."""
        return self.users.images if isinstance(self.users, CategoryPrior | SameImages) else None

    def with_images(self, default: int) -> "tuple[TaskSpec, int]":
        """The same with the number of images written out, and this number."""
        images = self.images or default
        return replace(self, users=replace(self.users, images=images)), images  # type: ignore[call-arg]


_NOT_OF_TASKS = ("quantity", "imbalance", "unseen", "split", "adapt_share", "test_share")


def check_tasks(config: RunConfig) -> TaskSpec:
    """Refuse everything about the data that can be refused without opening them.

    Raises:
        InputError: One line naming the key or the file, and what to do.

    """
    spec = TaskSpec.of(config)
    entry = spec.entry
    defaults = {f.name: f.default for f in fields(RunConfig)}
    for key in _NOT_OF_TASKS:
        if getattr(config, key) != defaults[key]:
            raise InputError(
                f"{key.replace('_', '-')}: {getattr(config, key)}; users of {entry.name} adapt to "
                "half of their images and are tested on the other half: leave it out"
            )
    if entry.fixed_users and spec.clients != entry.clients:
        raise InputError(
            f"clients: {spec.clients}; the preferences of {entry.name} are those of "
            f"{entry.clients} users: set clients={entry.clients}"
        )
    if isinstance(spec.users, DomainUsers) and spec.clients < 2:
        raise InputError(
            f"clients: {spec.clients}; {entry.name} needs a user for each of two domains"
        )
    check_image_size(spec.image_size)
    if 0 < spec.examples < 2:
        raise InputError("examples: 1 image cannot show two classes; it must be >= 2, or 0 for all")
    if entry.indoor:
        indoor_root(spec.root)
    elif entry.data:
        check_root(entry.data[0], spec.root)
    check_shift(spec.shift)
    return spec
