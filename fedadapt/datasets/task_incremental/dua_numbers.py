"""``dua-numbers``: pairs of digits of two domains, MNIST and SVHN, or USPS where SVHN is not whole.

Deviation: the paper normalises each domain by itself, MNIST by (0.1307, 0.3081) and SVHN by
(0.5, 0.5). Images here stay bytes under one scaling for both, so that a client need not say which
domain an image is of: MNIST's, unless ``normalization`` says otherwise.
"""

from functools import cache

import numpy as np
import torch

from fedadapt.datasets.benchmark import Scaling
from fedadapt.datasets.in_memory import resize
from fedadapt.datasets.load import choose_scaling
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.registry import find_benchmark
from fedadapt.datasets.sources.files import check_root, missing_files, npz_path
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
from fedadapt.datasets.task_incremental.task_spec import TaskSpec
from fedadapt.datasets.task_incremental.users import mixtures
from fedadapt.errors import InputError
from fedadapt.random_streams import stream

SIDE = 28
CAP = 10_000
"""Server images of a task and domain, before validation images are cut off."""
WHOLE_SVHN = 50_000
"""Training images above which an SVHN counts as whole."""
MNIST_SCALING = Scaling((0.1307,) * 3, (0.3081,) * 3)


def make_numbers(spec: TaskSpec) -> TaskBenchmark:
    """Make five tasks, {0, 1} to {8, 9}; a user for each domain, or a scale of mixtures."""
    num = spec.clients
    domains, (first_store, second_store) = _domains(spec.root)
    pixels = torch.cat(_same_channels(first_store, second_store))
    labels = np.concatenate((first_store.labels, second_store.labels))
    first = len(first_store.labels)
    trains = (np.arange(first_store.num_train), first + np.arange(second_store.num_train))
    tests = (
        np.arange(first_store.num_train, first),
        np.arange(first + second_store.num_train, len(labels)),
    )
    tasks = [(2 * t, 2 * t + 1) for t in range(5)]

    def of_task(rows: Rows, task: int) -> Rows:
        return rows[np.isin(labels[rows], tasks[task])]

    def capped(task: int) -> Rows:
        rng = stream(spec.seed, "task-cap", task)
        return np.concatenate([rng.permutation(of_task(part, task))[:CAP] for part in trains])

    server = tuple(
        limited_to(server_split(capped(t), stream(spec.seed, "task-server", t)), spec.examples)
        for t in range(len(tasks))
    )

    @cache
    def users(task: int, draw: int) -> list[AdaptTestIndices]:
        pool = (of_task(tests[0], task), of_task(tests[1], task))
        return mixtures(pool, num, stream(spec.seed, "task-users", task, draw))

    size = spec.image_size or SIDE
    images = StoredImages(pixels, labels % 2, (3, size, size), spec.shift, spec.seed)
    classes = {f"{a}+{b}": (str(a), str(b)) for a, b in tasks}
    kinds = tuple(_kind(domains, d / (num - 1)) for d in range(num))
    return TaskBenchmark(
        spec.name,
        kinds,
        tuple(classes),
        tuple(classes.values()),
        images,
        server,
        users,
        _scaling(spec, first_store, np.concatenate([rows.train for rows in server]), pixels),
        describe(
            spec, kinds, classes, images, server, users,
            domains=list(domains), content=[first_store.digest(), second_store.digest()],
        ),
    )  # fmt: skip


def _domains(root: str) -> tuple[tuple[str, str], tuple[Store, Store]]:
    """The two data sets, in the paper's order of users; 28 x 28."""
    mnist = read_official(find_benchmark("mnist"), root)
    svhn = _svhn(root)
    if svhn is not None:
        return ("svhn", "mnist"), (svhn, mnist)
    return ("usps", "mnist"), (_usps(root), mnist)


def _svhn(root: str) -> Store | None:
    """SVHN's middle squares; None where it is not there or not whole. It is never downloaded."""
    entry = find_benchmark("svhn")
    folder = check_root(entry.name, root)
    if not npz_path(entry, folder).is_file() and missing_files(entry, folder):
        return None
    store = read_official(entry, root)
    if store.num_train <= WHOLE_SVHN:
        return None
    top, left = ((side - SIDE) // 2 for side in store.inputs.shape[2:])
    if min(top, left) < 0:
        raise InputError(f"{folder}: svhn's images are below {SIDE} pixels; they must be 32 x 32")
    pixels = store.inputs[:, :, top : top + SIDE, left : left + SIDE]
    return Store(pixels.contiguous(), store.labels, store.num_train, store.classes)


def _usps(root: str) -> Store:
    store = read_official(find_benchmark("usps"), root)
    pixels = resize(store.inputs, (SIDE, SIDE))
    return Store(pixels, store.labels, store.num_train, store.classes)


def _same_channels(*stores: Store) -> list[torch.Tensor]:
    most = max(store.inputs.shape[1] for store in stores)
    return [resize(store.inputs, (SIDE, SIDE)).expand(-1, most, -1, -1) for store in stores]


def _scaling(spec: TaskSpec, one: Store, trained_on: Rows, pixels: torch.Tensor) -> Scaling:
    if spec.normalization == "auto" and not spec.weights:
        return MNIST_SCALING
    coloured = Store(pixels.expand(-1, 3, -1, -1), one.labels, 0, one.classes)
    return choose_scaling(spec.normalization, spec.weights, coloured, trained_on)


def _kind(domains: tuple[str, str], share: float) -> str:
    """``usps``, ``usps 0.75 + mnist 0.25``, ..., ``mnist``."""
    if share in (0, 1):
        return domains[int(share)]
    return f"{domains[0]} {1 - share:.2g} + {domains[1]} {share:.2g}"
