"""Task-incremental benchmarks: the server's labelled tasks, and users with images of each.

De Lange et al. 2020, "Unsupervised Model Personalization while Preserving Privacy and Scalability"
(DUA): the server learns one task after another from its own images and never sees a user's.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from fedadapt.datasets.benchmark import Benchmark, Examples, Manifest, Scaling, Split
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.split_cache import SplitCache
from fedadapt.errors import InputError

DRAWS = 5
"""Monte-Carlo iterations: a user's images are drawn anew in each, its preferences are not."""
CACHED_BYTES = 2**28
"""Room for images that are expensive to make; those that do not fit are made again each time."""


class Task(NamedTuple):
    """A task of the server: its own labelled images of some classes."""

    name: str
    classes: tuple[str, ...]  # in label order
    train: Examples  # labels 0..C-1 inside the task
    validation: Examples


class AdaptTestIndices(NamedTuple):
    """A user's images of one task, by number, to adapt with and to be tested on. No overlap."""

    adapt: Rows
    test: Rows


class ServerRows(NamedTuple):
    """The server's images of one task, by number; none of them is a user's."""

    train: Rows
    validation: Rows


class TaskImages(ABC):
    """All images of a benchmark by number, made when they are asked for.

    Attributes:
        shape: (C, H, W) of every image.
        labels: Labels of all images, inside their tasks: int64 [N].

    """

    shape: tuple[int, int, int]
    labels: Rows

    @abstractmethod
    def inputs(self, rows: Rows, client: int | None) -> Tensor:
        """Images with the client's shift, uint8 [n, C, H, W]; None: the server's, without any."""

    @abstractmethod
    def is_expensive(self, client: int) -> bool:
        """Whether the client's images take work to make and are worth caching."""


class Users(Protocol):
    """The users' images: a function of (task, draw); equal calls give equal rows."""

    def __call__(self, task: int, draw: int) -> Sequence[AdaptTestIndices]:
        """The images of each client, in client order."""


@dataclass(frozen=True, eq=False)
class TaskBenchmark:
    """Tasks of a server and the users' images of them; ``of_task`` is an ordinary benchmark.

    Attributes:
        name: As given on the command line.
        kinds: One word per client: its domain, preferred classes, corruption, ...
        task_names: In the order in which the server learns them.
        task_classes: The classes of each task, in label order.
        images: All images, of the server and of the users.
        server: The server's images of each task.
        users: The users' images.
        scaling: From bytes to network input, for all tasks, users and the server.
        manifest: Describes the server's and all users' images, in all draws.

    """

    name: str
    kinds: tuple[str, ...]
    task_names: tuple[str, ...]
    task_classes: tuple[tuple[str, ...], ...]
    images: TaskImages
    server: tuple[ServerRows, ...]
    users: Users
    scaling: Scaling
    manifest: Manifest
    _cache: SplitCache = field(default_factory=lambda: SplitCache(CACHED_BYTES), init=False)

    @property
    def num_clients(self) -> int:
        return len(self.kinds)

    @property
    def num_tasks(self) -> int:
        return len(self.task_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.images.shape

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """The server's images: made at the first call, so that a client never makes them."""
        return tuple(
            Task(name, classes, *(self._examples(part, None) for part in rows))
            for name, classes, rows in zip(
                self.task_names, self.task_classes, self.server, strict=True
            )
        )

    def of_task(self, task: int, draw: int = 1) -> Benchmark:
        """The benchmark of one task alone, with the users as its clients.

        A user takes no part in federated training: its labelled images are ``split(d).adapt``
        (user-validation), and ``split(d).train`` is the same images, for adaptations that train.
        ``split(d).test`` is for its evaluation.

        Args:
            task: 0..num_tasks-1.
            draw: The Monte-Carlo iteration, 1..DRAWS.

        """
        if not 0 <= task < self.num_tasks:
            raise InputError(f"task: {task}; {self.name} has tasks 0 to {self.num_tasks - 1}")
        if not 1 <= draw <= DRAWS:
            raise InputError(f"draw: {draw}; there are draws 1 to {DRAWS}")
        return _OfTask(self, task, draw)

    def user_split(self, task: int, draw: int, client: int, rows: AdaptTestIndices) -> Split:
        """The images of one user and task; expensive ones are cached while there is room."""
        return self._cache.get(
            (task, draw, client),
            lambda: self._make_split(client, rows),
            keep=self.images.is_expensive(client),
        )

    def _make_split(self, client: int, rows: AdaptTestIndices) -> Split:
        adapt, test = (self._examples(part, client) for part in rows)
        return Split(adapt, adapt, test)

    def _examples(self, rows: Rows, client: int | None) -> Examples:
        labels = torch.from_numpy(self.images.labels[rows])
        return Examples(self.images.inputs(rows, client), labels)


class _OfTask(Benchmark):
    """One task in one draw; everything else is that of the whole benchmark."""

    def __init__(self, whole: TaskBenchmark, task: int, draw: int) -> None:
        self.name = f"{whole.name}/{whole.task_names[task]}"
        self.num_clients = whole.num_clients
        self.classes = whole.task_classes[task]
        self.image_shape = whole.image_shape
        self.scaling = whole.scaling
        self.kinds = whole.kinds
        self.unseen = frozenset()
        metadata: dict[str, object] = {**whole.manifest.metadata, "task": task, "draw": draw}
        self.manifest = Manifest(f"{whole.manifest.hash}-{task}-{draw}", metadata)
        self._whole = whole
        self._key = (task, draw)
        self._rows = whole.users(task, draw)

    def split(self, client: int) -> Split:
        return self._whole.user_split(*self._key, client, self._rows[client])

    def num_train_examples(self, client: int) -> int:
        return len(self._rows[client].adapt)

    def rows(self, client: int) -> AdaptTestIndices:
        """Which images the user adapts with and is tested on, by number."""
        return self._rows[client]

    @property
    def global_test(self) -> Examples | None:
        return None


def limited_to(rows: ServerRows, examples: int) -> ServerRows:
    """At most ``examples`` training images and a quarter as many validation images; 0: all."""
    if not examples:
        return rows
    return ServerRows(rows.train[:examples], rows.validation[: max(1, examples // 4)])


def server_split(rows: Rows, rng: np.random.Generator) -> ServerRows:
    """A random 80/20 split (DUA's): both parts in random order."""
    order = rng.permutation(rows)
    cut = round(0.8 * len(order))
    return ServerRows(order[:cut], order[cut:])
