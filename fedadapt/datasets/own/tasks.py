"""Tasks of a server that has pictures of its own, and clients that have theirs: DUA in the field.

The server learns task after task from ``<task>/<class>/*.jpg``. A client's pictures belong to the
task that has their class, so no class may be in two tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark, Examples, Manifest, Scaling, Split
from fedadapt.datasets.feature_shift.spec import parse_shift
from fedadapt.datasets.own.agreement import agreed_schema, fixed_scaling, pooled_scaling
from fedadapt.datasets.own.decoded import decode_pictures
from fedadapt.datasets.own.own_data import channel_sums
from fedadapt.datasets.own.pictures import list_pictures
from fedadapt.datasets.own.schema import Schema
from fedadapt.datasets.own.settings import server_folders
from fedadapt.datasets.task_incremental.benchmark import (
    ServerRows,
    TaskBenchmark,
    server_split,
)
from fedadapt.datasets.task_incremental.images import StoredImages
from fedadapt.errors import InputError, RefusedError, shown
from fedadapt.random_streams import stream


@dataclass(frozen=True, eq=False)
class ServerTasks:
    """The server's own pictures, decoded."""

    names: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]  # of each task
    images: StoredImages
    rows: tuple[ServerRows, ...]
    scaling: Scaling  # fixed, or measured on the server's own pictures

    def schema(self, shapes: Sequence[tuple[int, int, int]]) -> Schema:
        """What clients have to agree on, whose pictures are of these shapes."""
        classes = tuple(name for of_task in self.classes for name in of_task)
        tasks = tuple(zip(self.names, self.classes, strict=True))
        return agreed_schema(classes, [self.images.shape, *shapes], self.scaling, tasks)


def load_server_tasks(config: RunConfig) -> ServerTasks:
    """Read the server's pictures.

    Raises:
        InputError: No pictures of a class, a class in two tasks, or no ``image-size``.

    """
    size = config.image_size
    if not size:
        raise InputError("image-size: pictures of many sizes need one, e.g. image-size=96")
    pixels, labels, rows, classes = [], [], [], []
    first = 0
    for number, (name, folder) in enumerate(server_folders(config).items()):
        decoded = decode_pictures(
            [p for p in list_pictures(folder) if p.label is not None], size, None
        )
        of_task = tuple(sorted({str(picture.label) for picture in decoded.pictures}))
        if len(of_task) < 2:
            raise InputError(
                f"server-data: task {shown(name)} has {len(of_task)} classes; it needs two"
            )
        classes.append(of_task)
        pixels.append(decoded.pixels)
        labels += [of_task.index(str(picture.label)) for picture in decoded.pictures]
        numbers = np.arange(first, first + len(decoded.pictures))
        rows.append(server_split(numbers, stream(config.seed, "task-server", number)))
        first += len(numbers)
    every = [name for of_task in classes for name in of_task]
    twice = next((name for name in every if every.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"server-data: class {shown(twice)} is in two tasks; nobody could tell of which a "
            "client's pictures are"
        )
    stored = torch.from_numpy(np.concatenate(pixels))
    images = StoredImages(
        stored, np.array(labels, np.int64), (3, size, size), parse_shift("none"), config.seed
    )
    scaling = fixed_scaling(config, 3)
    if scaling is None:
        trained = np.concatenate([part.train for part in rows])
        sums = channel_sums(Examples(stored[trained], torch.from_numpy(images.labels[trained])))
        measured = pooled_scaling([sums])
        scaling = Scaling(measured.mean, measured.std)  # no client's picture is in it
    return ServerTasks(tuple(server_folders(config)), tuple(classes), images, tuple(rows), scaling)


@dataclass(frozen=True, eq=False)
class OwnTasks(TaskBenchmark):
    """A benchmark of tasks whose users are clients with own data.

    Attributes:
        clients: Their data of all tasks: on the server none, on a client its own.

    """

    clients: Benchmark = field(kw_only=True)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.clients.image_shape
        return channels, height, width

    def of_task(self, task: int, draw: int = 1) -> Benchmark:
        """The benchmark of one task; there is one draw of pictures, those that clients have."""
        if draw != 1:
            raise InputError(f"draw: {draw}; own data are drawn once: leave it out")
        first = sum(len(classes) for classes in self.task_classes[:task])
        return _OfTask(self, task, first)


def own_tasks(clients: Benchmark, schema: Schema, server: ServerTasks | None = None) -> OwnTasks:
    """The tasks in a schema over what clients have.

    Args:
        server: The server's pictures; None on a client.

    """
    names = tuple(name for name, _ in schema.tasks)
    classes = tuple(of_task for _, of_task in schema.tasks)
    if server is None:
        nothing = torch.zeros((0, *schema.image_shape), dtype=torch.uint8)
        images = StoredImages(
            nothing, np.zeros(0, np.int64), schema.image_shape, parse_shift("none"), 0
        )
        rows: tuple[ServerRows, ...] = ()
    else:
        images, rows = server.images, server.rows
    return OwnTasks(
        clients.name,
        tuple(clients.kinds),
        names,
        classes,
        images,
        rows,
        lambda task, draw: [],
        schema.scaling,
        clients.manifest,
        clients=clients,
    )


class _OfTask(Benchmark):
    """The clients' pictures of the classes of one task."""

    def __init__(self, whole: OwnTasks, task: int, first: int) -> None:
        self.name = f"{whole.name}/{whole.task_names[task]}"
        self.num_clients = whole.num_clients
        self.classes = whole.task_classes[task]
        self.image_shape = whole.image_shape
        self.scaling = whole.scaling
        self.kinds = whole.clients.kinds
        self.unseen = frozenset()
        self.manifest = Manifest(
            f"{whole.manifest.hash}-{task}", {**whole.manifest.metadata, "task": task}
        )
        self._clients = whole.clients
        self._labels = range(first, first + len(self.classes))

    def split(self, client: int) -> Split:
        """The client's pictures of the task; what it does not test on is for adaptation."""
        train, adapt, test = map(self._of_task, self._clients.split(client))
        labelled = Examples(
            torch.cat([train.inputs, adapt.inputs]), torch.cat([train.labels, adapt.labels])
        )
        if not len(labelled) or not len(test):
            raise RefusedError(
                "too-few-pictures", f"data: too few pictures of task {shown(self.name)}"
            )
        return Split(labelled, labelled, test)

    def unlabelled(self, client: int) -> Tensor:
        """Of any task: nobody knows of which."""
        return self._clients.unlabelled(client)

    def num_train_examples(self, client: int) -> int:
        return len(self.split(client).train)

    @property
    def global_test(self) -> Examples | None:
        return None

    def _of_task(self, examples: Examples) -> Examples:
        inside = (examples.labels >= self._labels.start) & (examples.labels < self._labels.stop)
        return Examples(examples.inputs[inside], examples.labels[inside] - self._labels.start)
