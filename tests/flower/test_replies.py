import io
import re
import tracemalloc

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedadapt.flower.replies import ReplyError, checked_reply, npy_header
from fedadapt.server.aggregation import StreamingMean
from fedadapt.server.checks import Expected

pytestmark = pytest.mark.usefixtures("flower_identity")

SHAPE = (40, 50)
EXPECTED = Expected.of(
    {"w": torch.zeros(SHAPE), "b": torch.zeros(40), "count": torch.zeros((), dtype=torch.int64)}
)


def arrays(seed=0):
    random = np.random.default_rng(seed)
    return {
        "w": random.normal(size=SHAPE).astype(np.float32),
        "b": random.normal(size=40).astype(np.float32),
        "count": np.array(seed),
    }


def content(seed=0, num_examples=20):
    return RecordDict(
        {
            "arrays": ArrayRecord({n: Array(a) for n, a in arrays(seed).items()}),
            "metrics": MetricRecord({"num-examples": num_examples, "loss": 0.5}),
        }
    )


def message(records):
    asked = Message(RecordDict(), dst_node_id=1, message_type="train")
    return Message(records, reply_to=asked)


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def header(descr="<f4", shape=SHAPE, fortran=False):
    """A header of any claim, as numpy would write it."""
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def raw(data, shape=SHAPE, stype="numpy.ndarray"):
    def change(records):
        records["arrays"]["w"] = Array("float32", shape, stype, data)

    return change


def put(name, array):
    def change(records):
        records["arrays"][name] = Array(np.asarray(array))

    return change


def drop(record, name):
    def change(records):
        del records[record][name]

    return change


def metric(name, value):
    def change(records):
        # As from the network: past the checks of the record's own setter.
        records["metrics"].__dict__["_data"][name] = value

    return change


def record(name, value):
    def change(records):
        records[name] = value

    return change


def no_record(name):
    def change(records):
        del records[name]

    return change


W = arrays()["w"]
GOOD = npy(W)
NAN, INF = np.nan, np.inf


def with_value(value):
    spoiled = W.copy()
    spoiled[3, 4] = value
    return spoiled


CASES = {
    "NaN": (put("w", with_value(NAN)), "array 'w': 1 of 2000 values"),
    "infinity": (put("w", with_value(-INF)), "array 'w': 1 of 2000 values"),
    "shape (1,)": (put("w", np.ones(1, "f4")), r"array 'w': shape \(1,\), expected \(40, 50\)"),
    "shape ()": (put("w", np.float32(1)), r"array 'w': shape \(\)"),
    "shape (50,)": (put("w", np.ones(50, "f4")), r"array 'w': shape \(50,\)"),
    "transposed": (put("w", W.T.copy()), r"array 'w': shape \(50, 40\)"),
    "float64": (put("w", W.astype("f8")), "array 'w': dtype float64, expected float32"),
    "float16": (put("w", W.astype("f2")), "array 'w': dtype float16, expected float32"),
    "int64": (put("w", W.astype("i8")), "array 'w': dtype int64"),
    "bool": (put("w", W > 0), "array 'w': dtype bool"),
    "big-endian": (put("w", W.astype(">f4")), "array 'w': has dtype '>f4'"),
    "complex": (put("w", W.astype("c8")), "array 'w': has dtype '<c8'"),
    "text": (put("w", np.full(SHAPE, "a")), "array 'w': has dtype"),
    "records": (put("w", np.zeros(SHAPE, [("a", "f4")])), "array 'w': has dtype"),
    "counter as float": (put("count", 1.0), "array 'count': dtype float64, expected int64"),
    "missing array": (drop("arrays", "b"), "arrays: missing 'b'"),
    "unexpected array": (put("x", [1.0]), "arrays: unexpected 'x'"),
    "no arrays": (no_record("arrays"), "array records: none"),
    "two array records": (record("more", ArrayRecord()), "array records: 'arrays', 'more'"),
    "no metrics": (no_record("metrics"), "metric records: none"),
    "two metric records": (record("more", MetricRecord()), "metric records: 'metrics', 'more'"),
    "weight missing": (drop("metrics", "num-examples"), "num-examples: missing"),
    "weight 0": (metric("num-examples", 0), "num-examples: is 0"),
    "weight negative": (metric("num-examples", -5), "num-examples: is -5"),
    "weight NaN": (metric("num-examples", NAN), "num-examples: is nan"),
    "weight infinite": (metric("num-examples", INF), "num-examples: is inf"),
    "weight huge": (metric("num-examples", 10**18), r"num-examples: is 1e\+18"),
    "weight of 4000 bits": (metric("num-examples", 1 << 3999), "num-examples: .* 4000 bits"),
    "weight bool": (metric("num-examples", True), "num-examples: is of type bool"),
    "weight list": (metric("num-examples", [20]), "num-examples: is of type list"),
    "weight text": (metric("num-examples", "20"), "num-examples: is of type str"),
    "loss NaN": (metric("loss", NAN), "metric 'loss': is nan"),
    "loss list": (metric("loss", [0.5, 0.4]), "metric 'loss': is of type list"),
    "object array": (
        raw(npy(np.full(SHAPE, None), allow_pickle=True)),
        "array 'w': is an object array",
    ),
    "object in a record": (raw(header([("a", "|O")]) + GOOD[128:]), "array 'w': is an object"),
    "garbage": (raw(b"\x00garbage" * 99), "array 'w': is no .npy file"),
    "nothing": (raw(b""), "array 'w': is no .npy file"),
    "cut header": (raw(GOOD[:60]), "array 'w': has a header unlike numpy's"),
    "cut values": (raw(GOOD[:-4]), "array 'w': holds 7996 bytes of values, expected 8000"),
    "trailing bytes": (raw(GOOD + b"more"), "array 'w': holds 8004 bytes"),
    "36 TiB claimed": (raw(header(shape=(1 << 43, 1))), r"array 'w': shape \(8796093022208, 1\)"),
    "36 TiB claimed and announced": (
        raw(header(shape=(1 << 43, 1)), shape=(1 << 43, 1)),
        "array 'w': shape",
    ),
    "right shape, no values": (raw(header()), "array 'w': holds 0 bytes"),
    "announced otherwise": (raw(GOOD, shape=(1, 1)), r"array 'w': is announced as shape \(1, 1\)"),
    "long header": (
        raw(b"\x93NUMPY\x02\x00" + (1 << 31).to_bytes(4, "little") + b" " * 9999),
        "array 'w': has a header of 2147483648 bytes",
    ),
    "code in the header": (
        raw(header(shape="(__import__('os').abort(),)")),
        "array 'w': has a header unlike",
    ),
    "a thousand axes": (raw(header(shape=(1,) * 1000)), "array 'w'"),
    "pickled": (raw(GOOD, stype="pickle"), "array 'w': is serialised as 'pickle'"),
}


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("case", CASES)
def test_the_mean_of_the_rest_is_that_of_a_round_without_the_bad_reply(case, first):
    change, reason = CASES[case]
    bad = content(9)
    change(bad)
    good = [content(1), content(2, num_examples=30)]
    replies = [bad, *good] if first else [*good, bad]
    reasons, total, wanted = [], StreamingMean(), StreamingMean()
    for records in replies:
        try:
            add(total, checked_reply(message(records), EXPECTED))
        except ReplyError as error:
            reasons.append(str(error))
    for records in good:
        add(wanted, checked_reply(message(records), EXPECTED))
    assert len(reasons) == 1
    assert "\n" not in reasons[0]
    assert re.search(reason, reasons[0])
    assert all(torch.equal(total.result()[n], wanted.result()[n]) for n in ("w", "b"))


def add(total, reply):
    stacked = {name: tensor.unsqueeze(0) for name, tensor in reply.weights.items()}
    total.add(stacked, torch.tensor([reply.num_examples], dtype=torch.float64))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_good_reply_arrives_bit_for_bit(order):
    records = content(4)
    records["arrays"]["w"] = Array(np.asarray(arrays(4)["w"], order=order))
    reply = checked_reply(message(records), EXPECTED)
    for name, array in arrays(4).items():
        assert torch.equal(reply.weights[name], torch.from_numpy(array))
        assert reply.weights[name].is_contiguous()
    assert list(reply.weights) == list(EXPECTED.arrays)
    assert reply.num_examples == 20
    assert reply.metrics == {"loss": 0.5}
    assert reply.report == {}


def test_the_tensors_are_the_receivers_own():
    records = content()
    before = records["arrays"]["w"].data
    checked_reply(message(records), EXPECTED).weights["w"].zero_()
    assert records["arrays"]["w"].data == before == GOOD


def test_a_reply_may_be_a_report_alone():
    records = RecordDict(
        {
            "report": ArrayRecord({"sparsity": Array(np.ones(6)), "mask": Array(np.ones(3) > 0)}),
            "metrics": MetricRecord({"num-examples": 3}),
        }
    )
    reply = checked_reply(message(records), Expected.of({}))
    assert reply.weights == {}
    assert torch.equal(reply.report["sparsity"], torch.ones(6, dtype=torch.float64))
    assert torch.equal(reply.report["mask"], torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([1.0, NAN]), "report 'sparsity': 1 of 2 values"),
        (np.ones(7), r"report 'sparsity': shape \(7,\), expected \(2,\)"),
        (np.ones(2, "f4"), "report 'sparsity': dtype float32"),
    ],
)
def test_a_report_is_checked_as_the_arrays_are(array, reason):
    records = content()
    records["report"] = ArrayRecord({"sparsity": Array(array)})
    report = Expected.of({"sparsity": torch.ones(2, dtype=torch.float64)})
    with pytest.raises(ReplyError, match=reason):
        checked_reply(message(records), EXPECTED, report=report)
    with pytest.raises(ReplyError, match="reports: missing 'sparsity'"):
        checked_reply(message(content()), EXPECTED, report=report)


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_an_empty_array_is_an_array(shape):
    records = content()
    records["report"] = ArrayRecord({"none": Array(np.ones(shape))})
    assert checked_reply(message(records), EXPECTED).report["none"].shape == shape


@pytest.mark.parametrize("shape", [(0, 1 << 60, 1 << 60), (1,) * 40])
def test_an_impossible_report_is_a_reason_not_a_crash(shape):
    records = content()
    records["report"] = ArrayRecord(
        {"x": Array("float32", shape, "numpy.ndarray", header(shape=shape))}
    )
    with pytest.raises(ReplyError, match="report 'x': claims the impossible shape"):
        checked_reply(message(records), EXPECTED)


def test_bytes_that_are_neither_true_nor_false_are_refused():
    records = content()
    data = header("|b1", (2,)) + b"\x01\x07"
    records["report"] = ArrayRecord({"mask": Array("bool", (2,), "numpy.ndarray", data)})
    with pytest.raises(ReplyError, match="report 'mask': holds bytes that are neither"):
        checked_reply(message(records), EXPECTED)


def test_metrics_have_the_names_agreed_on():
    assert checked_reply(message(content()), EXPECTED, metrics=("loss",)).metrics == {"loss": 0.5}
    with pytest.raises(ReplyError, match="metrics: found 'loss'; expected 'accuracy'"):
        checked_reply(message(content()), EXPECTED, metrics=("accuracy",))


def test_settings_in_a_reply_are_not_read():
    records = content()
    records["config"] = ConfigRecord({"run": "rm -rf /"})
    assert checked_reply(message(records), EXPECTED).num_examples == 20


def test_an_error_is_no_reply():
    asked = Message(RecordDict(), dst_node_id=1, message_type="train")
    with pytest.raises(ReplyError, match="no content"):
        checked_reply(Message(Error(900, "crash"), reply_to=asked), EXPECTED)


def test_a_finite_value_that_would_overflow_everything_is_refused():
    records = content()
    records["arrays"]["w"] = Array(np.full(SHAPE, 1e12, "f4"))
    assert checked_reply(message(records), EXPECTED).weights["w"].max() == torch.tensor(1e12)
    records["arrays"]["w"] = Array(np.full(SHAPE, -3e38, "f4"))
    with pytest.raises(ReplyError, match=r"values beyond 1e\+12, expected smaller"):
        checked_reply(message(records), EXPECTED)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_header_numpy_writes_is_read(version):
    for shape in [(), (3,), (2, 3), (1, 2, 3, 4)]:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.zeros(shape, "i2"), version=version)
        found = npy_header(buffer.getvalue())
        assert found.descr == "<i2"
        assert found.shape == shape
        assert len(buffer.getvalue()) == found.offset + 2 * int(np.prod(shape))


def test_no_reply_takes_more_than_twice_what_is_expected():
    size = 4 << 20
    expected = Expected.of({"w": torch.zeros(size // 4)})
    good = npy(np.ones(size // 4, "f4"))
    bombs = {
        "honest": good,
        "bomb": header(shape=(1 << 43,)),
        "wide": npy(np.ones(size // 4, "f8")),
        "object": header("|O", (size // 4,)) + b"\x80\x04" * size,
        "large": npy(np.ones(size * 2, "f4")),
        "NaN": npy(np.full(size // 4, NAN, "f4")),
    }
    for data in bombs.values():
        records = content()
        records["arrays"] = ArrayRecord(
            {"w": Array("float32", (size // 4,), "numpy.ndarray", data)}
        )
        reply = message(records)
        tracemalloc.start()
        try:
            checked_reply(reply, expected)
            assert data is good
        except ReplyError:
            assert data is not good
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * size
