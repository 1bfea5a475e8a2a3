"""Where the server puts what clients told it, until it is merged: memory that need not grow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from safetensors.torch import load_file, save
from torch import Tensor

from fedadapt.errors import InputError
from fedadapt.files import write_atomically
from fedadapt.weights import Weights

Place = tuple[int, int]
"""(task, client)."""


class ImportanceStore(Protocol):
    """One answer a place; what is put there again replaces what was."""

    def put(self, place: Place, answer: Weights) -> None: ...

    def get(self, place: Place) -> Weights | None: ...

    def pack(self) -> dict[str, Tensor]:
        """What a checkpoint must hold of it."""
        ...

    def unpack(self, tensors: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class InMemoryImportances:
    """For a few clients, or small networks."""

    places: dict[Place, Weights] = field(default_factory=dict)

    def put(self, place: Place, answer: Weights) -> None:
        self.places[place] = {n: t.clone() for n, t in answer.items()}

    def get(self, place: Place) -> Weights | None:
        return self.places.get(place)

    def pack(self) -> dict[str, Tensor]:
        return {
            f"shelf/{task}/{client}/{n}": t
            for (task, client), answer in self.places.items()
            for n, t in answer.items()
        }

    def unpack(self, tensors: Mapping[str, Tensor]) -> None:
        self.places.clear()
        for name, tensor in tensors.items():
            if name.startswith("shelf/"):
                _, task, client, parameter = name.split("/", 3)
                self.places.setdefault((int(task), int(client)), {})[parameter] = tensor


@dataclass(frozen=True)
class OnDiskImportances:
    """For any number of clients: one safetensors file a place, written in one step."""

    folder: Path

    def put(self, place: Place, answer: Weights) -> None:
        path = self._path(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save({n: t.contiguous() for n, t in answer.items()}))

    def get(self, place: Place) -> Weights | None:
        path = self._path(place)
        if not path.is_file():
            return None
        try:
            return dict(load_file(path))
        except Exception as error:  # a damaged file can raise anything
            raise InputError(
                f"{path}: is damaged ({type(error).__name__}); start the run anew"
            ) from None

    def pack(self) -> dict[str, Tensor]:
        return {}  # it is on disk already, and a round that is done again puts the same there

    def unpack(self, tensors: Mapping[str, Tensor]) -> None:
        pass

    def _path(self, place: Place) -> Path:
        task, client = place
        return self.folder / f"task-{task}" / f"{client}.safetensors"
