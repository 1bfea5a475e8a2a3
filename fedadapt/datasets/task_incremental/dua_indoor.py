"""``dua-catprior`` and ``dua-transprior``: users of MIT Indoor Scenes (DUA, sec. 5).

Where paper and released code disagree: the paper adds 250 images of each preferred category, of
which the data set has too few; the code adds 70. The code spoils TransPrior's images at native
resolution and never resizes them: ``shift=native-corruptions:3``; the default resizes first.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Scaling
from fedadapt.datasets.load import choose_scaling
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.sources.image_store import Store
from fedadapt.datasets.task_incremental.benchmark import (
    AdaptTestIndices,
    ServerRows,
    TaskBenchmark,
    server_split,
    some_of,
)
from fedadapt.datasets.task_incremental.catalog import (
    CATEGORY_PRIOR,
    TaskEntry,
    UserRule,
    indoor_root,
    num_users,
    user_rule,
)
from fedadapt.datasets.task_incremental.manifest import describe
from fedadapt.datasets.task_incremental.mit_indoor import (
    PREFERENCES,
    SIDE,
    TASKS,
    ScenePictures,
    Scenes,
    read_scenes,
)
from fedadapt.errors import InputError
from fedadapt.random_streams import stream

CATPRIOR_EXTRAS = 70
"""Extra images of each preferred category of a user; both halves together."""
TRANSPRIOR_EXTRAS = 1000
"""Extra images of each task, the same for all users; both halves together."""


def make_indoor(config: RunConfig, entry: TaskEntry) -> TaskBenchmark:
    """Four tasks, 51 classes; the server has the training list, users the rest.

    The number after ``partition``'s colon replaces ``CATPRIOR_EXTRAS`` or ``TRANSPRIOR_EXTRAS``.
    """
    rule = user_rule(entry, config)
    scenes = read_scenes(indoor_root(config.data_root))
    names = tuple(TASKS)
    server = tuple(
        some_of(
            server_split(
                np.concatenate([scenes.rows(c, "train") for c in TASKS[name]]),
                stream(config.seed, "task-server", t),
            ),
            config.examples,
        )
        for t, name in enumerate(names)
    )
    for name, rows in zip(names, server, strict=True):
        if not len(rows.train) or not len(rows.validation):
            raise InputError(f"TrainImages.txt: lists too few images of task {name!r}")

    @cache
    def users(task: int, draw: int) -> list[AdaptTestIndices]:
        rng = stream(config.seed, "task-users", task, draw)
        tests, extras = (
            {c: scenes.rows(c, part) for c in TASKS[names[task]]} for part in ("test", "extra")
        )
        if rule.partition == CATEGORY_PRIOR:
            liked = [preferred[names[task]] for preferred in PREFERENCES]
            return catprior_users(tests, extras, liked, rule.images or CATPRIOR_EXTRAS, rng)
        halves = transprior_user(tests, extras, rule.images or TRANSPRIOR_EXTRAS, rng)
        return [halves] * num_users(entry, config)

    size = config.image_size or SIDE
    pictures = ScenePictures(
        scenes, scenes.labels, (3, size, size), rule.shift, config.seed, rule.native
    )
    kinds = tuple(pictures.kind(d) or f"user {d + 1}" for d in range(num_users(entry, config)))
    return TaskBenchmark(
        config.benchmark,
        kinds,
        names,
        tuple(TASKS.values()),
        pictures,
        server,
        users,
        _scaling(config, pictures, server),
        describe(
            config, _counted(rule), kinds, TASKS, pictures, server, users,
            content=_content(scenes), missing=scenes.missing,
        ),
    )  # fmt: skip


def catprior_users(
    tests: Mapping[str, Rows],
    extras: Mapping[str, Rows],
    liked: Sequence[Sequence[str]],
    num_extras: int,
    rng: np.random.Generator,
) -> list[AdaptTestIndices]:
    """Users of one task who hold more images of what they like; no image is with two of them.

    Each category's test images are shared out, remainders to random users, and halved; the odd one
    is for adapting. Of each liked category ``num_extras`` more are drawn, half for each purpose.

    Args:
        tests: Rows of each category in the test list; ``extras``: in neither list.
        liked: Categories, user by user.

    Raises:
        InputError: A category has fewer extra images than its users want.

    """
    parts: list[list[AdaptTestIndices]] = [[] for _ in liked]
    for rows in tests.values():
        for user, share in enumerate(shared_out(rows, len(liked), rng)):
            parts[user].append(_halved(share))
    for name, rows in extras.items():
        fans = [user for user, likes in enumerate(liked) if name in likes]
        if len(fans) * num_extras > len(rows):
            raise InputError(
                f"partition: category-prior:{num_extras}; {len(fans)} users like {name!r}, of "
                f"which there are {len(rows)} extra images: at most "
                f"category-prior:{len(rows) // len(fans)}"
            )
        order = rng.permutation(rows)
        for place, user in enumerate(fans):
            parts[user].append(_halved(order[place * num_extras :][:num_extras]))
    return [_joined(own) for own in parts]


def transprior_user(
    tests: Mapping[str, Rows],
    extras: Mapping[str, Rows],
    num_extras: int,
    rng: np.random.Generator,
) -> AdaptTestIndices:
    """What all users of one task hold: drawn extra images and all test images, halved.

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
    """Equal shares of the shuffled rows; what remains, one each to random users."""
    sizes = np.full(num_users, len(rows) // num_users)
    sizes[rng.permutation(num_users)[: len(rows) % num_users]] += 1
    return np.split(rng.permutation(rows), np.cumsum(sizes)[:-1])


def _halved(rows: Rows) -> AdaptTestIndices:
    """The first half, rounded down, is for the test (as in DUA)."""
    return AdaptTestIndices(rows[len(rows) // 2 :], rows[: len(rows) // 2])


def _joined(parts: Sequence[AdaptTestIndices]) -> AdaptTestIndices:
    adapt, test = (np.concatenate(half) for half in zip(*parts, strict=True))
    return AdaptTestIndices(adapt, test)


def _counted(rule: UserRule) -> UserRule:
    """The rule with the number it means."""
    own = CATPRIOR_EXTRAS if rule.partition == CATEGORY_PRIOR else TRANSPRIOR_EXTRAS
    return rule._replace(images=rule.images or own)


def _scaling(config: RunConfig, pictures: ScenePictures, server: tuple[ServerRows, ...]) -> Scaling:
    """``auto`` is ImageNet's, as in DUA; ``data`` measures up to 256 of the server's images."""
    choice = "imagenet" if config.normalization == "auto" else config.normalization
    rows = np.concatenate([part.train[:64] for part in server])
    if choice != "data":
        rows = rows[:1]
    sample = Store(pictures.inputs(rows, None), pictures.labels[rows], len(rows), ())
    wanted = RunConfig(normalization=choice)
    return choose_scaling(wanted, sample, np.arange(len(rows)))


def _content(scenes: Scenes) -> str:
    """A digest of names, sizes and lists; the images themselves are not opened."""
    seen = hashlib.sha256()
    for number, file in enumerate(scenes.files):
        size = (scenes.folder / file).stat().st_size
        seen.update(f"{file} {size} {scenes.train[number]:d}{scenes.test[number]:d}\n".encode())
    return seen.hexdigest()[:32]
