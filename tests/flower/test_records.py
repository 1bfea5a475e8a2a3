"""What goes into a message comes out of it."""

import pytest
import torch
from fake_grid import over_the_wire
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as some

from fedadapt.flower import records
from fedadapt.flower.grid_over_clients import flower_identity
from fedadapt.messages import Update
from fedadapt.records import Evaluation

NUMBERS = some.floats(allow_nan=False, allow_infinity=False)
SETTINGS = some.dictionaries(
    some.text(min_size=1, max_size=8),
    some.booleans() | some.integers(-(2**31), 2**31) | NUMBERS | some.text(max_size=8)
    | some.lists(some.integers(0, 9), min_size=1, max_size=3),
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _task():
    with flower_identity():
        yield


def travelled(content: RecordDict) -> RecordDict:
    return over_the_wire(Message(content, 5, "train")).content


@pytest.mark.parametrize(
    "kind", [torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_tensors_keep_type_shape_and_values(kind, shape):
    one = (torch.rand(shape) * 9).to(kind)
    content = travelled(RecordDict({"arrays": records.array_record({"a.b": one})}))
    found = records.tensors(content["arrays"])
    assert list(found) == ["a.b"]
    assert found["a.b"].dtype == kind
    assert torch.equal(found["a.b"], one)


def test_a_view_of_one_tensor_travels_as_what_it_shows():
    turned = torch.arange(6.0).reshape(2, 3).T
    found = records.tensors(records.array_record({"w": turned}))["w"]
    assert torch.equal(found, turned)
    found.add_(1)  # and is one's own: neither read-only nor the sender's
    assert turned[0, 0] == 0


def test_names_keep_their_order():
    """Sums over names depend on it in the last bit."""
    weights = {n: torch.ones(1) for n in ("z", "a", "m")}
    content = travelled(RecordDict({"arrays": records.array_record(weights)}))
    assert list(records.tensors(content["arrays"])) == ["z", "a", "m"]


@pytest.mark.slow
@given(config=SETTINGS)
def test_settings_travel(config):
    assert records.settings(travelled(records.request({}, config))) == config


def test_settings_are_those_of_all_records_and_never_bytes():
    content = RecordDict(
        {"one": ConfigRecord({"a": 1, "b": b"x"}), "two": ConfigRecord({"c": [1.5], "d": [b"x"]})}
    )
    assert records.settings(content) == {"a": 1, "c": [1.5]}


def test_a_client_receives_a_cohort_of_one():
    content = records.request(
        {"arrays": records.array_record({"w": torch.ones(2, 3)})}, {"mu": 0.5}
    )
    sent = records.received(travelled(content), 7)
    assert sent.clients == (7,)
    assert sent.weights["w"].shape == (1, 2, 3)
    assert sent.config == {"mu": 0.5}


def test_the_model_is_found_under_any_name():
    one = RecordDict(
        {"parameters": ArrayRecord({"w": records.array_record({"w": torch.ones(1)})["w"]})}
    )
    assert records.received(one, 0).weights["w"].tolist() == [[1.0]]


def update(**changes) -> Update:
    given = {
        "weights": {"w": torch.ones(1, 2)},
        "num_examples": torch.tensor([12.0], dtype=torch.float64),
        "metrics": {"loss": torch.tensor([0.25], dtype=torch.float64)},
        "report": {"sparsity": torch.zeros(1, 3)},
        "states": {"norms": {"secret": torch.ones(1, 2)}},
    }
    return Update(**(given | changes))


def test_an_answer_is_what_travels_and_nothing_that_stays():
    content = travelled(records.answer(update()))
    assert set(content) == {"arrays", "metrics", "report"}
    assert content["metrics"] == MetricRecord({"loss": 0.25, "num-examples": 12.0})
    assert records.tensors(content["arrays"])["w"].tolist() == [1, 1]
    assert list(content["report"]) == ["sparsity"]


def test_an_answer_without_arrays_has_no_record_of_them():
    assert set(records.answer(update(weights={}, report={}))) == {"metrics"}


ROWS = [
    Evaluation(3, 5, "0-1", True, "base", "none", "test", 12, 0.75, 0.5),
    Evaluation(3, 5, "0-1", True, "personal", "kd", "global", 100, 1.0, 0.125),
]


@pytest.mark.parametrize("found", [ROWS, ROWS[:1], []])
def test_evaluations_travel(found):
    """The client's number does not: the server knows whom it asked."""
    assert records.rows(travelled(records.rows_record(found)), 3, 5) == found


@pytest.mark.parametrize(
    "corrupt_reply",
    [
        lambda c: c.pop("rows"),
        lambda c: c.pop("labels"),
        lambda c: c["rows"].pop("loss"),
        lambda c: c["labels"].pop("seen"),
        lambda c: c["rows"].update({"loss": [0.1]}),
        lambda c: c["rows"].update({"accuracy": [1.5, 0.5]}),
        lambda c: c["rows"].update({"accuracy": [float("nan"), 0.5]}),
        lambda c: c["rows"].update({"num-examples": [0, 5]}),
    ],
)
def test_malformed_evaluations_are_refused(corrupt_reply):
    content = records.rows_record(ROWS)
    corrupt_reply(content)
    with pytest.raises(ValueError, match=r"malformed|accuracy"):
        records.rows(content, 3, 5)


@pytest.mark.parametrize(
    ("record", "column", "value"),
    [
        ("rows", "accuracy", ["a", "b"]),
        ("rows", "loss", [1, 2]),
        ("labels", "kind", [1, 2]),
        ("labels", "seen", ["yes", "no"]),
        ("labels", "model", [1, 2]),
    ],
)
def test_values_of_other_types_are_refused(record, column, value):
    """They would break the tables at the end of a run of hours."""
    content = records.rows_record(ROWS)
    try:
        content[record][column] = value
    except TypeError:
        return  # Flower has refused it already
    with pytest.raises(ValueError, match="malformed: values of other types"):
        records.rows(content, 3, 5)
