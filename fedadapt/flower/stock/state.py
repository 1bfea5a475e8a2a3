"""The state of anybody's Flower strategy: what its attributes hold, for checkpoints.

Everything that is plain data is stored, however deep in lists, tuples, sets and dictionaries:
numbers, words, arrays, tensors, Flower's records, generators of random numbers, and objects of the
strategy's own package. What is code is made again by the constructor. What is neither is named when
a run is to be resumed, and refused: a strategy that forgot something would go on with other results
and nobody would notice.
"""

import logging
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping
from threading import Lock, RLock
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp import Grid
from torch import Tensor

from fedadapt.errors import InputError
from fedadapt.flower import records

CODE = (
    *(type, FunctionType, BuiltinFunctionType, MethodType, ModuleType),
    *(logging.Logger, type(Lock()), type(RLock())),
)
"""Types of values that are made by the constructor and do not change."""
Packed = list[Any]
"""JSON: a word for the kind of a value, and what it is made from again."""
DICTS: dict[str, Any] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": Counter,
    "defaultdict": defaultdict,
}
SEQUENCES: dict[str, Any] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
SETTINGS: dict[str, Any] = {"MetricRecord": MetricRecord, "ConfigRecord": ConfigRecord}
DEEPEST = 20  # levels of values in values

log = logging.getLogger(__name__)


class _UnsavedError(Exception):
    """A value that no checkpoint can hold."""


class StrategyState:
    """Reads and writes the attributes of a strategy."""

    def __init__(self, strategy: object) -> None:
        """Look at a strategy that has just been constructed."""
        self._strategy = strategy
        self._package = type(strategy).__module__.partition(".")[0]
        self._constructed = dict(vars(strategy))
        self._warned = False

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Packed]]:
        """Return tensors and JSON; attributes that cannot be stored are only named."""
        tensors: dict[str, Tensor] = {}
        metadata: dict[str, Packed] = {}
        for name, value in vars(self._strategy).items():
            if isinstance(value, CODE) and value is self._constructed.get(name):
                continue
            if isinstance(value, Grid):  # handed to it anew in every round
                continue
            mine: dict[str, Tensor] = {}
            try:
                metadata[name] = self._packed(value, f"strategy/{name}", mine, 0)
                tensors |= mine
            except _UnsavedError as error:
                metadata[name] = ["unsaved", str(error)]
                if not self._warned:
                    log.warning(
                        "strategy: it keeps %r, %s, which no checkpoint can hold: this run cannot "
                        "be resumed",
                        *(name, error),
                    )
                self._warned = True
        return tensors, metadata

    def unpack(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Packed]) -> None:
        """Set the attributes as they were.

        Raises:
            InputError: One could not be stored.

        """
        for name, packed in metadata.items():
            before = getattr(self._strategy, name, None)
            try:
                value = self._unpacked(packed, tensors, before)
            except _UnsavedError as error:
                raise InputError(
                    f"resume: the strategy {type(self._strategy).__name__} keeps {name!r}, {error},"
                    " which no checkpoint can hold; start the run anew, or keep it as numbers, "
                    "lists, dictionaries or arrays"
                ) from None
            setattr(self._strategy, name, value)

    def _packed(self, value: Any, path: str, tensors: dict[str, Tensor], depth: int) -> Packed:
        def inner(value: Any, name: object) -> Packed:
            return self._packed(value, f"{path}/{name}", tensors, depth + 1)

        kind = type(value)
        if depth > DEEPEST:
            raise _UnsavedError("values in values without end")
        if value is None or kind in (bool, int, float, str):
            return ["plain", value]
        if kind is bytes:
            return ["bytes", value.hex()]
        if isinstance(value, np.ndarray | np.generic | Tensor):
            tensors[path] = _tensor(value)
            word = "tensor" if isinstance(value, Tensor) else "array"
            return ["number" if isinstance(value, np.generic) else word, path]
        if isinstance(value, ArrayRecord):
            tensors |= {f"{path}/{n}": t for n, t in records.tensors(value).items()}
            return ["record", {n: f"{path}/{n}" for n in value}]
        if isinstance(value, MetricRecord | ConfigRecord):
            return [kind.__name__, dict(value)]
        if isinstance(value, RecordDict):
            return ["RecordDict", {name: inner(record, name) for name, record in value.items()}]
        if kind.__name__ in SEQUENCES and kind is SEQUENCES[kind.__name__]:
            items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            return [kind.__name__, [inner(item, i) for i, item in enumerate(items)]]
        if kind.__name__ in DICTS and kind is DICTS[kind.__name__]:
            pairs = [[inner(k, f"key {k}"), inner(v, k)] for k, v in value.items()]
            return [kind.__name__, pairs]
        if kind is random.Random:
            return ["Random", inner(value.getstate(), "state")]
        if isinstance(value, np.random.Generator):
            return ["Generator", inner(value.bit_generator.state, "state")]
        if isinstance(value, np.random.RandomState):
            return ["RandomState", inner(value.get_state(legacy=False), "state")]
        if kind.__module__.partition(".")[0] == self._package and hasattr(value, "__dict__"):
            own = {n: v for n, v in vars(value).items() if not isinstance(v, CODE)}
            return ["object", {name: inner(v, name) for name, v in own.items()}]
        raise _UnsavedError(f"a {kind.__name__}")

    def _unpacked(self, packed: Any, tensors: Mapping[str, Tensor], before: Any) -> Any:
        """Return a value.

        Args:
            before: What the constructor has put in its place.

        """

        def inner(packed: Any, before: Any = None) -> Any:
            return self._unpacked(packed, tensors, before)

        kind, content = packed
        match kind:
            case "unsaved":
                raise _UnsavedError(content)
            case "plain":
                return content
            case "bytes":
                return bytes.fromhex(content)
            case "tensor":
                return tensors[content].clone()
            case "array":
                return tensors[content].clone().numpy()
            case "number":
                return tensors[content].numpy()[()]
            case "record":
                return records.array_record({n: tensors[path] for n, path in content.items()})
            case "RecordDict":
                return RecordDict({name: inner(record) for name, record in content.items()})
            case "object" if before is not None:
                for name, value in content.items():
                    setattr(before, name, inner(value, getattr(before, name, None)))
                return before
            case "Random" if before is not None:
                before.setstate(inner(content))
                return before
            case "Generator" if before is not None:
                before.bit_generator.state = inner(content)
                return before
            case "RandomState" if before is not None:
                before.set_state(inner(content))
                return before
            case _ if kind in SETTINGS:
                return SETTINGS[kind](content)
            case "deque":
                return deque(map(inner, content), getattr(before, "maxlen", None))
            case _ if kind in SEQUENCES:
                return SEQUENCES[kind](map(inner, content))
            case _ if kind in DICTS:
                return self._dictionary(kind, content, inner, before)
        raise _UnsavedError(f"an object ({kind}) that its constructor does not make")

    @staticmethod
    def _dictionary(kind: str, pairs: Any, inner: Any, before: Any) -> Any:
        had = before if isinstance(before, dict) else {}
        values = {key: inner(v, had.get(key)) for k, v in pairs for key in [inner(k)]}
        if kind == "defaultdict":
            return defaultdict(getattr(before, "default_factory", None), values)
        return DICTS[kind](values)


def _tensor(value: Any) -> Tensor:
    try:
        if isinstance(value, Tensor):
            return value.detach().cpu().clone()
        return torch.from_numpy(np.array(value))
    except (TypeError, RuntimeError):
        raise _UnsavedError(f"an array of {value.dtype}") from None
