"""``dua-catprior`` and ``dua-transprior``: users of MIT Indoor Scenes (DUA, sec. 5).

Where paper and released code disagree: the paper adds 250 images of each preferred category, of
which the data set has too few; the code adds 70. The code corrupts TransPrior's images at native
resolution and never resizes them: ``shift=native-corruptions:3``; the default resizes first.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from fedadapt.datasets.benchmark import Scaling
from fedadapt.datasets.load import choose_scaling
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.sources.image_store import Store
from fedadapt.datasets.task_incremental.benchmark import (
    AdaptTestIndices,
    ServerRows,
    TaskBenchmark,
    limited_to,
    server_split,
)
from fedadapt.datasets.task_incremental.indoor_files import indoor_root
from fedadapt.datasets.task_incremental.manifest import describe
from fedadapt.datasets.task_incremental.mit_indoor import (
    PREFERENCES,
    SIDE,
    TASKS,
    SceneImages,
    Scenes,
    read_scenes,
)
from fedadapt.datasets.task_incremental.task_spec import CategoryPrior, TaskSpec
from fedadapt.errors import InputError
from fedadapt.random_streams import stream

CATPRIOR_EXTRAS = 70
"""Extra images of each preferred category of a user, to adapt with and to test together."""
TRANSPRIOR_EXTRAS = 1000
"""Extra images of each task, the same for all users, to adapt with and to test together."""


def make_indoor(spec: TaskSpec) -> TaskBenchmark:
    """Make four tasks of 51 classes; the server has the training list, users the rest.

    The number after ``partition``'s colon replaces ``CATPRIOR_EXTRAS`` or ``TRANSPRIOR_EXTRAS``.
    """
    prefers = isinstance(spec.users, CategoryPrior)
    spec, num_extras = spec.with_images(CATPRIOR_EXTRAS if prefers else TRANSPRIOR_EXTRAS)
    scenes = read_scenes(indoor_root(spec.root))
    names = tuple(TASKS)
    server = tuple(
        limited_to(
            server_split(
                np.concatenate([scenes.rows(c, "train") for c in TASKS[name]]),
                stream(spec.seed, "task-server", t),
            ),
            spec.examples,
        )
        for t, name in enumerate(names)
    )
    for name, rows in zip(names, server, strict=True):
        if not len(rows.train) or not len(rows.validation):
            raise InputError(f"TrainImages.txt: lists too few images of task {name!r}")

    @cache
    def users(task: int, draw: int) -> list[AdaptTestIndices]:
        rng = stream(spec.seed, "task-users", task, draw)
        tests, extras = (
            {c: scenes.rows(c, part) for c in TASKS[names[task]]} for part in ("test", "extra")
        )
        if prefers:
            preferred = [of_task[names[task]] for of_task in PREFERENCES]
            return catprior_users(tests, extras, preferred, num_extras, rng)
        return [transprior_user(tests, extras, num_extras, rng)] * spec.clients

    size = spec.image_size or SIDE
    images = SceneImages(scenes, scenes.labels, (3, size, size), spec.shift, spec.seed, spec.native)
    kinds = tuple(spec.shift.change(d) or f"user {d + 1}" for d in range(spec.clients))
    return TaskBenchmark(
        spec.name,
        kinds,
        names,
        tuple(TASKS.values()),
        images,
        server,
        users,
        _scaling(spec.normalization, images, server),
        describe(
            spec, kinds, TASKS, images, server, users,
            content=_content(scenes), missing=scenes.missing,
        ),
    )  # fmt: skip


def catprior_users(
    tests: Mapping[str, Rows],
    extras: Mapping[str, Rows],
    preferred: Sequence[Sequence[str]],
    num_extras: int,
    rng: np.random.Generator,
) -> list[AdaptTestIndices]:
    """Users of one task with more images of the categories they prefer; they share no image.

    Each category's test images are shared out, remainders to random users, and halved; the odd one
    is for adapting. ``num_extras`` more are drawn of each preferred category, half for each
    purpose.

    Args:
        tests: Rows of each category in the test list.
        extras: Rows of each category in neither list.
        preferred: Categories, user by user.

    Raises:
        InputError: A category has fewer extra images than its users want.

    """
    parts: list[list[AdaptTestIndices]] = [[] for _ in preferred]
    for rows in tests.values():
        for user, share in enumerate(shared_out(rows, len(preferred), rng)):
            parts[user].append(_halved(share))
    for name, rows in extras.items():
        users = [user for user, categories in enumerate(preferred) if name in categories]
        if len(users) * num_extras > len(rows):
            raise InputError(
                f"partition: category-prior:{num_extras}; {len(users)} users prefer {name!r}, of "
                f"which there are {len(rows)} extra images: at most "
                f"category-prior:{len(rows) // len(users)}"
            )
        order = rng.permutation(rows)
        for position, user in enumerate(users):
            parts[user].append(_halved(order[position * num_extras :][:num_extras]))
    return [_joined(of_user) for of_user in parts]


def transprior_user(
    tests: Mapping[str, Rows],
    extras: Mapping[str, Rows],
    num_extras: int,
    rng: np.random.Generator,
) -> AdaptTestIndices:
    """The images that all users of one task hold: drawn extra images and all test images, halved.

    Test images are halved in the order of their categories and files, in all draws alike.

    Raises:
        InputError: There are fewer extra images.

    """
    pool = np.concatenate(list(extras.values()))
    if num_extras > len(pool):
        raise InputError(
            f"partition: same-images:{num_extras}; there are {len(pool)} extra images: at most "
            f"same-images:{len(pool)}"
        )
    drawn = rng.permutation(pool)[:num_extras]
    return _joined([_halved(drawn), *(_halved(rows) for rows in tests.values())])


def shared_out(rows: Rows, num_users: int, rng: np.random.Generator) -> list[Rows]:
    """Equal shares of the shuffled rows; the remainder goes to random users, one row each."""
    sizes = np.full(num_users, len(rows) // num_users)
    sizes[rng.permutation(num_users)[: len(rows) % num_users]] += 1
    return np.split(rng.permutation(rows), np.cumsum(sizes)[:-1])


def _halved(rows: Rows) -> AdaptTestIndices:
    """The first half, rounded down, is for the test (as in DUA)."""
    return AdaptTestIndices(rows[len(rows) // 2 :], rows[: len(rows) // 2])


def _joined(parts: Sequence[AdaptTestIndices]) -> AdaptTestIndices:
    adapt, test = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    return AdaptTestIndices(adapt, test)


def _scaling(normalization: str, images: SceneImages, server: tuple[ServerRows, ...]) -> Scaling:
    """``auto`` is ImageNet's, as in DUA; ``data`` measures up to 256 of the server's images."""
    choice = "imagenet" if normalization == "auto" else normalization
    rows = np.concatenate([part.train[:64] for part in server])
    if choice != "data":
        rows = rows[:1]
    sample = Store(images.inputs(rows, None), images.labels[rows], len(rows), ())
    return choose_scaling(choice, "", sample, np.arange(len(rows)))


def _content(scenes: Scenes) -> str:
    """A digest of names, sizes and lists; the images themselves are not opened."""
    seen = hashlib.sha256()
    for number, file in enumerate(scenes.files):
        size = (scenes.folder / file).stat().st_size
        seen.update(f"{file} {size} {scenes.train[number]:d}{scenes.test[number]:d}\n".encode())
    return seen.hexdigest()[:32]
