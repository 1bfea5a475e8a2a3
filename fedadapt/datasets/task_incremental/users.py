"""Constructions of users from a pool of images: the rows to adapt with and the rows to test on.

The pool is cut into an adapt part and a test part first and users draw from each, so that no
user's test image is any user's adapt image. No two users share an image until the pool is used up;
then it is gone through again.
"""

from collections.abc import Sequence

import numpy as np

from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.task_incremental.benchmark import AdaptTestIndices
from fedadapt.errors import InputError

PREFERRED_SHARE = 0.8
"""Share of a category-prior user's images that is of the class it prefers; about 83 % in DUA."""
SAME_IMAGES_DEFAULT = 1000
"""Images of each task where all users hold the same ones: as many as DUA draws."""
LEAST_IN_PART = 20
"""Images to adapt with, or to test on, below which users rather share some."""


def adapt_test_split(rows: Rows, rng: np.random.Generator) -> AdaptTestIndices:
    """Cut rows into random halves; the odd image is for adapting."""
    order = rng.permutation(rows)
    middle = (len(order) + 1) // 2
    return AdaptTestIndices(order[:middle], order[middle:])


def stretches(rows: Rows, sizes: Sequence[int]) -> list[Rows]:
    """Consecutive stretches of rows, which begin again after their end; none may be longer."""
    starts = np.cumsum([0, *sizes])
    return [
        np.take(rows, np.arange(start, start + size), mode="wrap")
        for start, size in zip(starts, sizes, strict=False)
    ]


def preferences(num_users: int, num_classes: int, rng: np.random.Generator) -> Rows:
    """The class each user prefers, [users]; equally many users prefer each, up to one."""
    offset = rng.integers(num_classes)
    return np.asarray(rng.permutation((np.arange(num_users) + offset) % num_classes), np.int64)


def category_prior(
    classes: Sequence[Rows], prefers: Rows, images: int | None, rng: np.random.Generator
) -> list[AdaptTestIndices]:
    """Make users with ``PREFERRED_SHARE`` of one class, the rest of the others in equal parts.

    Args:
        classes: The pool, class by class.
        prefers: One class a user, [users].
        images: Images of each user, to adapt with and to test on together; None: as many as keep
            users apart, but not fewer than ``LEAST_IN_PART`` in each part while the pool has as
            many.

    Raises:
        InputError: ``images`` is more than a class holds.

    """
    pools = [adapt_test_split(rows, rng) for rows in classes]
    smallest = min(len(part) for pool in pools for part in pool)
    sizes = np.arange(2, int(smallest / PREFERRED_SHARE) + 1)
    preferred = np.rint(PREFERRED_SHARE * sizes).astype(np.int64)
    other = (sizes - preferred) // (len(classes) - 1)
    num_users = np.bincount(prefers, minlength=len(classes))[:, None]  # by preferred class
    apart = (num_users * preferred + (len(prefers) - num_users) * other <= smallest).all(axis=0)
    default = max(int(apart.sum()), int((sizes <= LEAST_IN_PART).sum())) - 1
    best = images // 2 - 2 if images else default  # sizes begin with 2
    if not 0 <= best < len(sizes):
        raise InputError(
            f"partition: category-prior:{images} images a task; a user can hold 4 to "
            f"{2 * sizes[-1] if len(sizes) else 0}"
        )
    return _served(
        pools,
        [
            np.where(prefers == c, preferred[best], other[best]).tolist()
            for c in range(len(classes))
        ],
    )


def same_images(
    rows: Rows, num_users: int, images: int | None, rng: np.random.Generator
) -> list[AdaptTestIndices]:
    """Give all users the same rows: ``images`` of the pool, or all where it has fewer."""
    split = adapt_test_split(rng.permutation(rows)[: images or SAME_IMAGES_DEFAULT], rng)
    return [split] * num_users


def mixtures(
    domains: tuple[Rows, Rows], num_users: int, rng: np.random.Generator
) -> list[AdaptTestIndices]:
    """Give user d of D the second domain's images in proportion d / (D - 1).

    Two users hold all of a domain each. More users hold equally many images, as many as both
    domains have for all of them.
    """
    pools = [adapt_test_split(rows, rng) for rows in domains]
    if num_users == 2:
        return pools
    smallest = min(len(part) for pool in pools for part in pool)
    size = min(smallest, max(2 * smallest // num_users, LEAST_IN_PART))
    second = [round(d * size / (num_users - 1)) for d in range(num_users)]
    shares = [[size - n for n in second], second]
    return _served(pools, shares)


def _served(
    pools: Sequence[AdaptTestIndices], sizes: Sequence[Sequence[int]]
) -> list[AdaptTestIndices]:
    """Serve all users ``sizes[pool][user]`` images of each pool, in both of its parts."""
    parts = [
        [stretches(pool[part], of_users) for pool, of_users in zip(pools, sizes, strict=True)]
        for part in range(2)
    ]
    adapt, test = ([np.concatenate(rows) for rows in zip(*part, strict=True)] for part in parts)
    return [AdaptTestIndices(*rows) for rows in zip(adapt, test, strict=True)]
