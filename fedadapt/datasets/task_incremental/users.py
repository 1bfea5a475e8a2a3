"""Constructions of users from a pool of images: which rows each holds to adapt with, to test on.

The pool is cut into halves first and users are served from each half, so that nobody's test image
is anybody's adapt image. While the images last no two users share one; then they go round.
"""

from collections.abc import Sequence

import numpy as np

from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.task_incremental.benchmark import AdaptTestIndices
from fedadapt.errors import InputError

PREFERRED_SHARE = 0.8
"""Of a category-prior user's images; DUA's hold about 83 % of their three preferred categories."""
SAME_IMAGES_DEFAULT = 1000
"""Images a task of users who all hold the same: as many as DUA draws."""
LEAST_HALF = 20
"""Images a half below which users rather share some."""


def cut(rows: Rows, rng: np.random.Generator) -> AdaptTestIndices:
    """Random halves; the odd image is for adapting."""
    order = rng.permutation(rows)
    middle = (len(order) + 1) // 2
    return AdaptTestIndices(order[:middle], order[middle:])


def go_round(deck: Rows, sizes: Sequence[int]) -> list[Rows]:
    """Consecutive stretches of a deck that begins anew at its end; no stretch is longer than it."""
    starts = np.cumsum([0, *sizes])
    return [
        np.take(deck, np.arange(start, start + size), mode="wrap")
        for start, size in zip(starts, sizes, strict=False)
    ]


def preferences(num_users: int, num_classes: int, rng: np.random.Generator) -> Rows:
    """The class each user prefers, [users]; each class by equally many, give or take one."""
    offset = rng.integers(num_classes)
    return np.asarray(rng.permutation((np.arange(num_users) + offset) % num_classes), np.int64)


def category_prior(
    classes: Sequence[Rows], prefers: Rows, images: int, rng: np.random.Generator
) -> list[AdaptTestIndices]:
    """Users with ``PREFERRED_SHARE`` of one class, the rest of the others in equal parts.

    Args:
        classes: The pool, class by class.
        prefers: One class a user, [users].
        images: Of each user, both halves together; 0: what keeps users apart, but not fewer than
            ``LEAST_HALF`` a half while the pool has as many.

    Raises:
        InputError: ``images`` is more than a class holds.

    """
    sampling_pools = [cut(rows, rng) for rows in classes]
    smallest = min(len(half) for halves in sampling_pools for half in halves)
    sizes = np.arange(2, int(smallest / PREFERRED_SHARE) + 1)
    liked = np.rint(PREFERRED_SHARE * sizes).astype(np.int64)
    other = (sizes - liked) // (len(classes) - 1)
    fans = np.bincount(prefers, minlength=len(classes))[:, None]
    apart = (fans * liked + (len(prefers) - fans) * other <= smallest).all(axis=0)
    own = max(int(apart.sum()), int((sizes <= LEAST_HALF).sum())) - 1
    best = images // 2 - 2 if images else own  # sizes begin with 2
    if not 0 <= best < len(sizes):
        raise InputError(
            f"partition: category-prior:{images} images a task; a user can hold 4 to "
            f"{2 * sizes[-1] if len(sizes) else 0}"
        )
    return _dealt(
        sampling_pools,
        [np.where(prefers == c, liked[best], other[best]).tolist() for c in range(len(classes))],
    )


def same_images(
    rows: Rows, num_users: int, images: int, rng: np.random.Generator
) -> list[AdaptTestIndices]:
    """All users hold the same: ``images`` of the pool, or all where it has fewer."""
    halves = cut(rng.permutation(rows)[: images or SAME_IMAGES_DEFAULT], rng)
    return [halves] * num_users


def mixtures(
    domains: tuple[Rows, Rows], num_users: int, rng: np.random.Generator
) -> list[AdaptTestIndices]:
    """User d of D holds the second domain's images in proportion d / (D - 1).

    Two users hold all of a domain each. More hold equally many, so many that both domains last.
    """
    sampling_pools = [cut(rows, rng) for rows in domains]
    if num_users == 2:
        return sampling_pools
    smallest = min(len(half) for halves in sampling_pools for half in halves)
    size = min(smallest, max(2 * smallest // num_users, LEAST_HALF))
    second = [round(d * size / (num_users - 1)) for d in range(num_users)]
    shares = [[size - n for n in second], second]
    return _dealt(sampling_pools, shares)


def _dealt(
    sampling_pools: Sequence[AdaptTestIndices], sizes: Sequence[Sequence[int]]
) -> list[AdaptTestIndices]:
    """Serve all users, in each half, ``sizes[deck][user]`` images of each deck."""
    parts = [
        [go_round(deck[half], some) for deck, some in zip(sampling_pools, sizes, strict=True)]
        for half in range(2)
    ]
    adapt, test = ([np.concatenate(own) for own in zip(*part, strict=True)] for part in parts)
    return [AdaptTestIndices(*own) for own in zip(adapt, test, strict=True)]
