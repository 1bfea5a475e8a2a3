"""Pairs of classes as tasks, over a data set in memory: ``digits-tasks``, ``cifar10-tasks``, ..."""

from functools import cache

import numpy as np

from fedadapt.config import RunConfig
from fedadapt.datasets.catalog import find
from fedadapt.datasets.feature_shift.shift import shift_kind
from fedadapt.datasets.load import choose_scaling
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.sources.image_store import Store
from fedadapt.datasets.sources.official import read_digits, read_official
from fedadapt.datasets.task_incremental.benchmark import (
    AdaptTestIndices,
    TaskBenchmark,
    server_split,
    some_of,
)
from fedadapt.datasets.task_incremental.catalog import (
    CATEGORY_PRIOR,
    TaskEntry,
    num_users,
    user_rule,
)
from fedadapt.datasets.task_incremental.images import StoredPictures
from fedadapt.datasets.task_incremental.manifest import describe
from fedadapt.datasets.task_incremental.users import category_prior, preferences, same_images
from fedadapt.random_streams import stream

PAIR = 2
USERS_SHARE = 0.4
"""Of each class's images, for the users of a data set without a test part of its own."""


def make_pairs(config: RunConfig, entry: TaskEntry) -> TaskBenchmark:
    """Tasks of two classes each, in the data set's order.

    The server has the training images, the users the official test images; where there are none,
    each class is cut in two.
    """
    rule, num = user_rule(entry, config), num_users(entry, config)
    store = read_official(find(entry.data[0]), config.data_root) if entry.data else read_digits()
    pairs = [store.classes[c : c + PAIR] for c in range(0, len(store.classes) - 1, PAIR)]
    names = tuple("+".join(pair) for pair in pairs)
    of_server, of_users = _sides(store, config.seed)
    server = tuple(
        some_of(
            server_split(
                np.concatenate(of_server[PAIR * t : PAIR * (t + 1)]),
                stream(config.seed, "task-server", t),
            ),
            config.examples,
        )
        for t in range(len(pairs))
    )
    prefers = [
        preferences(num, PAIR, stream(config.seed, "task-preferences", t))
        for t in range(len(pairs))
    ]

    @cache
    def users(task: int, draw: int) -> list[AdaptTestIndices]:
        pool = of_users[PAIR * task : PAIR * (task + 1)]
        rng = stream(config.seed, "task-users", task, draw)
        if rule.partition == CATEGORY_PRIOR:
            return category_prior(pool, prefers[task], rule.images, rng)
        return same_images(np.concatenate(pool), num, rule.images, rng)

    channels, height, width = store.pixels.shape[1:]
    size = config.image_size
    pictures = StoredPictures(
        store.pixels,
        store.labels % PAIR,
        (channels, size or height, size or width),
        rule.shift,
        config.seed,
    )
    liked = [
        "+".join(pair[p[d]] for pair, p in zip(pairs, prefers, strict=True))
        if rule.partition == CATEGORY_PRIOR
        else ""
        for d in range(num)
    ]
    kinds = tuple(
        "/".join(filter(None, (word, shift_kind(rule.shift, d)))) or "all"
        for d, word in enumerate(liked)
    )
    classes = dict(zip(names, pairs, strict=True))
    return TaskBenchmark(
        config.benchmark,
        kinds,
        names,
        tuple(pairs),
        pictures,
        server,
        users,
        choose_scaling(config, store, np.concatenate([rows.train for rows in server])),
        describe(config, rule, kinds, classes, pictures, server, users, content=store.digest()),
    )


def _sides(store: Store, seed: int) -> tuple[list[Rows], list[Rows]]:
    """The server's and the users' images, class by class; fixed over the draws."""
    of_class = [np.flatnonzero(store.labels == c) for c in range(len(store.classes))]
    if store.num_train < len(store.labels):
        return (
            [rows[rows < store.num_train] for rows in of_class],
            [rows[rows >= store.num_train] for rows in of_class],
        )
    shuffled = [stream(seed, "task-sides", c).permutation(r) for c, r in enumerate(of_class)]
    cuts = [round(USERS_SHARE * len(rows)) for rows in shuffled]
    return (
        [rows[cut:] for rows, cut in zip(shuffled, cuts, strict=True)],
        [rows[:cut] for rows, cut in zip(shuffled, cuts, strict=True)],
    )
