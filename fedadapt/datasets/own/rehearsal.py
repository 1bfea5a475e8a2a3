"""``benchmark=own:/folder``: a federation of people with own data, tried out on one machine.

Each ``<client>/<class>/*.jpg`` is read and cut as the client itself would do it, so that the run
gives the numbers which the same pictures give on as many devices.
"""

from collections.abc import Callable
from typing import TypeVar

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Scaling
from fedadapt.datasets.own.agreement import agreed_schema, fixed_scaling, pooled_scaling
from fedadapt.datasets.own.benchmarks import Rehearsal
from fedadapt.datasets.own.own_data import (
    OwnData,
    OwnSource,
    channel_sums,
    class_names,
    image_shape,
    read_own_data,
)
from fedadapt.datasets.own.server_pictures import ServerPictures, load_server_pictures
from fedadapt.datasets.own.settings import client_folders, parse_classes
from fedadapt.datasets.own.tasks import OwnTasks, ServerTasks, load_server_tasks, own_tasks
from fedadapt.errors import InputError, RefusedError, shown

T = TypeVar("T")


def load_rehearsal(config: RunConfig) -> Rehearsal:
    """Read the data of all clients below a folder, and the pictures that the server trains on.

    Raises:
        InputError: No clients, another number of them, or data that do not fit.

    """
    return _rehearsal(config, load_server_pictures(config) if config.server_data else None)


def load_own_tasks(config: RunConfig) -> OwnTasks:
    """Read the data of all clients below a folder, and the server's own.

    Raises:
        InputError: See ``load_rehearsal`` and ``load_server_tasks``.

    """
    server = load_server_tasks(config)
    clients = _rehearsal(config, server)
    return own_tasks(clients, clients.schema, server)


def _rehearsal(config: RunConfig, server: ServerTasks | ServerPictures | None) -> Rehearsal:
    sources = {name: OwnSource(images=str(path)) for name, path in client_folders(config).items()}
    names = tuple(sources)

    def of_each(read: Callable[[OwnSource], T]) -> list[T]:
        return [_for(name, read, source) for name, source in sources.items()]

    shapes = of_each(lambda source: image_shape(source, config.image_size))
    if server is not None:
        schema = server.schema(shapes)
        scaling: Scaling | None = server.scaling
    else:
        given = parse_classes(config.classes)
        classes = given or [name for own in of_each(class_names) for name in own]
        scaling = fixed_scaling(config, shapes[0][0])
        schema = agreed_schema(classes, shapes, scaling)
    if scaling is None:
        plain = schema
        found = of_each(lambda source: channel_sums(read_own_data(source, plain).split.train))
        schema = agreed_schema(schema.classes, shapes, pooled_scaling(found))

    def read(client: int) -> OwnData:
        name = names[client]
        return _for(name, lambda source: read_own_data(source, schema), sources[name])

    images = server.images if isinstance(server, ServerPictures) else None
    return Rehearsal(config.benchmark, schema, names, read, images)


def _for(name: str, read: Callable[[OwnSource], T], source: OwnSource) -> T:
    """What ``read`` makes of a source; an error says whose it is."""
    try:
        return read(source)
    except RefusedError as error:
        raise RefusedError(error.word, f"client {shown(name)}: {error}") from None
    except InputError as error:
        raise InputError(f"client {shown(name)}: {error}") from None
