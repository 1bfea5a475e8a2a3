"""Stores for the importances that clients sent, until they are merged."""

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
    """A store with one answer for each (task, client); a later answer replaces an earlier one."""

    def put(self, place: Place, answer: Weights) -> None: ...

    def get(self, place: Place) -> Weights | None: ...

    def pack(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint must hold."""
        ...

    def unpack(self, tensors: Mapping[str, Tensor]) -> None: ...


@dataclass(frozen=True)
class InMemoryImportances:
    """A store in memory, for a few clients or small networks."""

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
    """A store on disk, for any number of clients: an atomic safetensors file for each answer."""

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
        return {}  # the files are on disk already, and a repeated round writes the same files

    def unpack(self, tensors: Mapping[str, Tensor]) -> None:
        pass

    def _path(self, place: Place) -> Path:
        task, client = place
        return self.folder / f"task-{task}" / f"{client}.safetensors"
