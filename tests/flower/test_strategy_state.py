"""A stranger's strategy goes on with everything that it kept, or does not go on."""

import json
import random
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedadapt.errors import InputError
from fedadapt.flower.stock.state import StrategyState


@dataclass
class Meter:
    """An object of the strategy's own module."""

    seen: list[float] = field(default_factory=list)


class Keeper(FedAvg):
    """Has one of everything, empty."""

    def __init__(self) -> None:
        super().__init__()
        self.meter = Meter()
        self.python = random.Random(0)
        self.numpy = np.random.default_rng(0)
        self.recent = deque(maxlen=3)
        self.groups = defaultdict(list)
        self.function = max

    def fill(self) -> None:
        self.meter.seen += [0.1 + 0.2, float("inf")]
        self.python.random()
        self.numpy.normal(size=3)
        self.recent.extend([1, 2, 3, 4])
        self.groups["a"].append(np.float32(0.1))
        self.history = [{"loss": 0.5, 3: (1, None, True)}, [], "word", b"\x00\xff"]
        self.momenta = {"w": {"m": np.arange(4, dtype=np.float64), "v": torch.ones(2).bfloat16()}}
        self.by_client = OrderedDict([((1, "a"), {1, 2, 3}), ((0, "b"), frozenset({4}))])
        self.votes = Counter({"x": 2})
        self.record = ArrayRecord({"w": Array(np.ones((2, 3), np.float32))})
        self.metrics = [MetricRecord({"loss": 0.5, "all": [1, 2]}), ConfigRecord({"mu": 0.1})]
        self.message = RecordDict({"arrays": self.record, "metrics": self.metrics[0]})


def stored(state):
    """Through tensors and JSON, as a checkpoint does it."""
    tensors, metadata = state.pack()
    return {n: t.clone() for n, t in tensors.items()}, json.loads(json.dumps(metadata))


def plain(value):
    """Something that can be compared, types included."""
    if isinstance(value, ArrayRecord):
        return "record", {n: plain(a.numpy()) for n, a in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return type(value).__name__, value.dtype.str, value.tolist()
    if isinstance(value, torch.Tensor):
        return value.dtype, value.tolist()
    if isinstance(value, Meter):
        return "meter", plain(value.seen)
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return str(value.bit_generator.state)
    if isinstance(value, dict):
        return type(value).__name__, [(plain(k), plain(v)) for k, v in value.items()]
    if isinstance(value, list | tuple | deque):
        return type(value).__name__, [plain(v) for v in value]
    if isinstance(value, MetricRecord | ConfigRecord | RecordDict):
        return type(value).__name__, [(k, plain(v)) for k, v in value.items()]
    return type(value).__name__, value


def test_everything_that_is_data_comes_back_however_deep_it_lies():
    keeper = Keeper()
    state = StrategyState(keeper)
    keeper.fill()
    tensors, metadata = stored(state)
    again = Keeper()
    StrategyState(again).unpack(tensors, metadata)
    assert {n: plain(v) for n, v in vars(again).items()} == {
        n: plain(v) for n, v in vars(keeper).items()
    }
    assert again.recent.maxlen == 3
    again.groups["new"].append(1)  # it still makes its own lists
    assert again.python.random() == keeper.python.random()
    assert again.numpy.normal() == keeper.numpy.normal()


def test_what_is_restored_is_no_view_of_the_checkpoint():
    keeper = Keeper()
    keeper.fill()
    tensors, metadata = stored(StrategyState(keeper))
    again = Keeper()
    StrategyState(again).unpack(tensors, metadata)
    again.momenta["w"]["m"] += 1
    assert keeper.momenta["w"]["m"].tolist() == [0, 1, 2, 3]
    third = Keeper()
    StrategyState(third).unpack(tensors, metadata)
    assert third.momenta["w"]["m"].tolist() == [0, 1, 2, 3]


def endless():
    ring = []
    ring.append(ring)
    return ring


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: iter([1, 2]), "a list_iterator"),
        (lambda: [{"deep": (x for x in ())}], "a generator"),
        (lambda: np.array(["a", None], object), "an array of object"),
        (endless, "values in values without end"),
        (lambda: lambda: 1, "a function"),
        (Meter, "an object .* that its constructor does not make"),
    ],
)
def test_what_cannot_be_stored_is_said_at_once_and_refused_at_the_end(make, named, caplog):
    keeper = FedAvg()
    keeper.__class__ = Keeper
    state = StrategyState(keeper)
    keeper.odd = make()
    tensors, metadata = stored(state)
    assert ("'odd'" in caplog.text) == (make is not Meter)
    again = FedAvg()
    again.__class__ = Keeper
    with pytest.raises(InputError, match=rf"^resume: the strategy Keeper keeps 'odd', {named}"):
        StrategyState(again).unpack(tensors, metadata)


def test_code_that_the_constructor_made_is_made_by_the_constructor():
    keeper = Keeper()
    tensors, metadata = stored(StrategyState(keeper))
    assert "function" not in metadata
    assert not {"train_metrics_aggr_fn", "evaluate_metrics_aggr_fn"} & metadata.keys()
    again = Keeper()
    StrategyState(again).unpack(tensors, metadata)
    assert again.function is max
