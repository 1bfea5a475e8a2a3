"""Experts on disk: each is trained once and then loaded.

::

    <folder>/
      experts.json             what determines each expert, its accuracy, its file's hash
      expert-01.safetensors    body, head and importances of the first task's expert

An expert is written before ``experts.json`` names it, both atomically.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from fedadapt.errors import FedadaptError, InputError
from fedadapt.files import write_atomically
from fedadapt.strategies.dua.experts.expert import Expert, TaskHead
from fedadapt.weights import Weights

FORMAT = 1
PARTS = ("body", "head", "importance")

Metadata = dict[str, Any]
"""What determines an expert, as JSON: settings, seed, data, the key of the expert before it."""


def key_of(metadata: Metadata) -> str:
    """Return the hash of ``metadata``, which includes the key of the expert before."""
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


class ExpertStore:
    """A folder of experts, numbered from 1; each was trained starting from the one before."""

    def __init__(self, folder: Path) -> None:
        """Read the index of the folder, which need not exist yet.

        Raises:
            InputError: ``experts.json`` is damaged, or of another format.

        """
        self.folder = folder
        self._index = folder / "experts.json"
        self._entries: dict[int, dict[str, Any]] = self._read_index()

    @property
    def numbers(self) -> list[int]:
        """The numbers of the experts in the folder, ascending."""
        return sorted(self._entries)

    def load(self, number: int, metadata: Metadata) -> Expert | None:
        """Return the expert with this number; None if it has not been trained yet.

        Raises:
            InputError: It is damaged, or ``metadata`` differ from those it was trained with.

        """
        if number not in self._entries:
            return None
        expert = self.read(number)
        if expert.key != key_of(metadata):
            before = self._entries[number]["facts"]
            now = json.loads(json.dumps(metadata))
            raise InputError(
                f"{self.folder}: expert {number} was trained otherwise "
                f"({'; '.join(_differences(before, now))}); give another folder"
            )
        return expert

    def read(self, number: int) -> Expert:
        """Return the expert with this number, without comparing metadata.

        Raises:
            InputError: It is damaged.

        """
        path = self.folder / _file(number)
        try:
            entry = self._entries[number]
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise ValueError("its content is not what was written")
            if entry["key"] != key_of(entry["facts"]):
                raise ValueError(f"{self._index.name} says otherwise than what was written")
            parts = _unpacked(load(data))
            return Expert(
                name=entry["name"],
                body=parts["body"],
                head=parts["head"],
                heads=tuple(TaskHead(task, int(count)) for task, count in entry["heads"]),
                accuracy=float(entry["accuracy"]),
                epochs=int(entry["epochs"]),
                importance=parts["importance"],
                key=entry["key"],
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise self._damaged(path, error) from None

    def save(self, number: int, expert: Expert, metadata: Metadata) -> None:
        """Save an expert; later experts are removed from the index.

        Raises:
            FedadaptError: It cannot be written; the files that were there are intact.

        """
        data = save(_packed(expert), {"format": "fedadapt expert"})
        entry = {
            "name": expert.name,
            "key": expert.key,
            "facts": metadata,
            "heads": [list(head) for head in expert.heads],
            "accuracy": expert.accuracy,
            "epochs": expert.epochs,
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        entries = {n: e for n, e in self._entries.items() if n < number} | {number: entry}
        text = json.dumps({"format": FORMAT, "experts": entries}, indent=1) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / _file(number), data)
            write_atomically(self._index, text.encode())
        except OSError as error:
            raise FedadaptError(f"{self.folder}: experts cannot be written ({error})") from error
        self._entries = entries

    def _read_index(self) -> dict[int, dict[str, Any]]:
        try:
            content = json.loads(self._index.read_text("utf-8"))
            if content["format"] != FORMAT:
                raise InputError(
                    f"{self._index}: format {content['format']}; this fedadapt reads {FORMAT}"
                )
            return {int(number): dict(entry) for number, entry in content["experts"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(self._index, error) from None

    def _damaged(self, path: Path, error: Exception) -> InputError:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        return InputError(f"{path}: damaged, {what}; remove the folder to train its experts anew")


def load_experts(folder: Path) -> list[Expert]:
    """Load all experts of a folder, for example as ``previous`` of ``train_experts``.

    Raises:
        InputError: There are none, or they are damaged.

    """
    store = ExpertStore(folder)
    if not store.numbers:
        raise InputError(f"{folder}: 0 experts; train_experts(folder=...) writes some")
    return [store.read(number) for number in store.numbers]


def _file(number: int) -> str:
    return f"expert-{number:02d}.safetensors"


def _packed(expert: Expert) -> Weights:
    """Return all tensors under ``part/array``; no two share memory."""
    return {
        f"{part}/{n}": t.detach().cpu().contiguous().clone()
        for part in PARTS
        for n, t in getattr(expert, part).items()
    }


def _unpacked(tensors: Weights) -> dict[str, Weights]:
    parts: dict[str, Weights] = {part: {} for part in PARTS}
    for name, tensor in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = tensor
    return parts


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """List the differences of two metadata: ``settings.lr was 0.1, is 0.2``."""
    differences = []
    for name in [*now, *(n for n in before if n not in now)]:
        was, given = before.get(name), now.get(name)
        if isinstance(was, Mapping) and isinstance(given, Mapping):
            differences += _differences(was, given, f"{within}{name}.")
        elif was != given:
            differences.append(f"{within}{name} was {_short(was)}, is {_short(given)}")
    return differences


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
