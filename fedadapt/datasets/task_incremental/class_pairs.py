"""Pairs of classes as tasks, over a data set in memory: ``digits-tasks``, ``cifar10-tasks``, ..."""

from functools import cache

import numpy as np

from fedadapt.datasets.load import choose_scaling
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.registry import find_benchmark
from fedadapt.datasets.sources.digits import read_digits
from fedadapt.datasets.sources.image_store import Store
from fedadapt.datasets.sources.official import read_official
from fedadapt.datasets.task_incremental.benchmark import (
    AdaptTestIndices,
    TaskBenchmark,
    limited_to,
    server_split,
)
from fedadapt.datasets.task_incremental.images import StoredImages
from fedadapt.datasets.task_incremental.manifest import describe
from fedadapt.datasets.task_incremental.task_spec import CategoryPrior, TaskSpec
from fedadapt.datasets.task_incremental.users import category_prior, preferences, same_images
from fedadapt.random_streams import stream

PAIR = 2
USERS_SHARE = 0.4
"""Share of each class's images that users get of a data set without a test part."""


def make_pairs(spec: TaskSpec) -> TaskBenchmark:
    """Make tasks of two classes each, in the data set's order.

    The server has the training images, the users the official test images; where there are none,
    each class is cut in two.
    """
    data, num, size = spec.entry.data, spec.clients, spec.image_size
    store = read_official(find_benchmark(data[0]), spec.root) if data else read_digits()
    pairs = [store.classes[c : c + PAIR] for c in range(0, len(store.classes) - 1, PAIR)]
    names = tuple("+".join(pair) for pair in pairs)
    of_server, of_users = _sides(store, spec.seed)
    server = tuple(
        limited_to(
            server_split(
                np.concatenate(of_server[PAIR * t : PAIR * (t + 1)]),
                stream(spec.seed, "task-server", t),
            ),
            spec.examples,
        )
        for t in range(len(pairs))
    )
    prefers = [
        preferences(num, PAIR, stream(spec.seed, "task-preferences", t)) for t in range(len(pairs))
    ]

    @cache
    def users(task: int, draw: int) -> list[AdaptTestIndices]:
        pool = of_users[PAIR * task : PAIR * (task + 1)]
        rng = stream(spec.seed, "task-users", task, draw)
        if isinstance(spec.users, CategoryPrior):
            return category_prior(pool, prefers[task], spec.images, rng)
        return same_images(np.concatenate(pool), num, spec.images, rng)

    channels, height, width = store.inputs.shape[1:]
    images = StoredImages(
        store.inputs,
        store.labels % PAIR,
        (channels, size or height, size or width),
        spec.shift,
        spec.seed,
    )
    preferred = [
        "+".join(pair[p[d]] for pair, p in zip(pairs, prefers, strict=True))
        if isinstance(spec.users, CategoryPrior)
        else ""
        for d in range(num)
    ]
    kinds = tuple(
        "/".join(filter(None, (word, spec.shift.change(d)))) or "all"
        for d, word in enumerate(preferred)
    )
    classes = dict(zip(names, pairs, strict=True))
    return TaskBenchmark(
        spec.name,
        kinds,
        names,
        tuple(pairs),
        images,
        server,
        users,
        choose_scaling(
            spec.normalization, spec.weights, store, np.concatenate([rows.train for rows in server])
        ),
        describe(spec, kinds, classes, images, server, users, content=store.digest()),
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
