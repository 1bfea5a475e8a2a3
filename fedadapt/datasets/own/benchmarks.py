"""Own data as a benchmark: on the client that has them, on the server, and of many in a rehearsal.

The three have the same classes, shape and scaling, so that a run computes the same with each.
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import overload

from torch import Tensor

from fedadapt.datasets.benchmark import Benchmark, Examples, Manifest, ServerImages, Split
from fedadapt.datasets.own.names import OWN
from fedadapt.datasets.own.own_data import OwnData
from fedadapt.datasets.own.schema import Schema
from fedadapt.errors import InputError

KIND = "all"
"""What a client says of itself where a simulation says its domain."""


class SharedSchema(Benchmark):
    """What is common to the three: everything but the pictures."""

    def __init__(self, name: str, schema: Schema, clients: Sequence[str]) -> None:
        """Take over a schema.

        Args:
            clients: The clients' names, by number.

        """
        self.name = name
        self.schema = schema
        self.num_clients = len(clients)
        self.classes = schema.classes
        self.image_shape = schema.image_shape
        self.scaling = schema.scaling
        self.kinds = tuple(clients)
        self.unseen = frozenset()
        together = sha256(f"{schema.hash} {' '.join(clients)}".encode())
        self.manifest = Manifest(
            together.hexdigest(),
            {
                "benchmark": OWN,
                "classes": list(schema.classes),
                "image-shape": list(schema.image_shape),
                "clients": list(clients),
            },
        )

    @property
    def global_test(self) -> Examples | None:
        return None


class OnServer(SharedSchema):
    """The benchmark of a server: it has no client's data."""

    def __init__(
        self, schema: Schema, clients: Sequence[str], images: ServerImages | None = None
    ) -> None:
        """Take over the clients' names, and pictures that the server has itself."""
        super().__init__(OWN, schema, clients)
        self._images = images

    @property
    def server_images(self) -> ServerImages | None:
        return self._images

    def split(self, client: int) -> Split:
        raise InputError(f"client {client}: its data are its own; the server has none")

    def num_train_examples(self, client: int) -> int:
        raise InputError(f"client {client}: its data are its own; the server has none")


class OnClient(SharedSchema):
    """The benchmark of a client: its own data, whatever number the server gives it."""

    def __init__(self, schema: Schema, data: OwnData) -> None:
        """Take over the data of this client."""
        super().__init__(OWN, schema, (KIND,))
        self.kinds = _Alike(KIND)
        self.data = data

    def split(self, client: int) -> Split:
        return self.data.split

    def unlabelled(self, client: int) -> Tensor:
        return self.data.unlabelled

    def num_train_examples(self, client: int) -> int:
        return len(self.data.split.train)


class Rehearsal(SharedSchema):
    """Own data of many clients on one machine; those of a client are read when it is asked for."""

    def __init__(
        self,
        name: str,
        schema: Schema,
        clients: Sequence[str],
        read: Callable[[int], OwnData],
        images: ServerImages | None = None,
    ) -> None:
        """Take over the clients' names, how the data of one are read, and the server's pictures."""
        super().__init__(name, schema, clients)
        self._read = read
        self._images = images
        self._data: dict[int, OwnData] = {}

    @property
    def server_images(self) -> ServerImages | None:
        return self._images

    def split(self, client: int) -> Split:
        return self._of(client).split

    def unlabelled(self, client: int) -> Tensor:
        return self._of(client).unlabelled

    def num_train_examples(self, client: int) -> int:
        return len(self._of(client).split.train)

    def _of(self, client: int) -> OwnData:
        if client not in self._data:
            self._data[client] = self._read(client)
        return self._data[client]


class _Alike(Sequence[str]):
    """The same word for a client of any number; it is gone through as that of one."""

    def __init__(self, word: str) -> None:
        self._word = word

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        yield self._word

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._word if isinstance(index, int) else (self._word,)
