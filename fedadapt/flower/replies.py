"""A Flower reply -> plain tensors, checked before anything is inflated.

An array travels as a ``.npy`` file. Its header is read here, without evaluating anything, and must
agree with what is expected before memory is taken: a header may claim terabytes or hide a pickle.
"""

import math
import re
import sys
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from torch import Tensor

from fedadapt.server.checks import (
    MAX_EXAMPLES,
    MAX_MAGNITUDE,
    Expected,
    Spec,
    listed,
    unusable,
    word,
)
from fedadapt.weights import Weights

ARRAYS, REPORT, METRICS, NUM_EXAMPLES = "arrays", "report", "metrics", "num-examples"

MAX_HEADER = 4096  # bytes; numpy writes 128 for a shape of ten axes

MAX_AXES = 16

DTYPES = {
    "<f2": torch.float16,
    "<f4": torch.float32,
    "<f8": torch.float64,
    "|i1": torch.int8,
    "<i2": torch.int16,
    "<i4": torch.int32,
    "<i8": torch.int64,
    "|u1": torch.uint8,
    "|b1": torch.bool,
}
"""All that travels, as numpy's header writes it: no objects, no records, no foreign byte order."""

_HEADER = re.compile(
    r"\{'descr': (?P<descr>'[^']*'|\[.*\]), 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>|\d{1,19},|\d{1,19}(?:, \d{1,19})+)\), \} *\n"
)


class ReplyError(ValueError):
    """A reply that must not be used; the message is the reason, one line."""


@dataclass(frozen=True, eq=False)
class Reply:
    """What one client answered, without a client axis."""

    weights: Weights
    num_examples: float
    metrics: dict[str, float] = field(default_factory=dict)  # without "num-examples"
    report: Weights = field(default_factory=dict)


class NpyHeader(NamedTuple):
    """What a ``.npy`` file says of itself."""

    descr: str  # numpy's word for the dtype, a key of ``DTYPES``
    fortran: bool  # column-major
    shape: tuple[int, ...]
    offset: int  # where the values begin, in bytes


def checked_reply(
    message: Message,
    expected: Expected,
    *,
    report: Expected | None = None,
    metrics: tuple[str, ...] | None = None,
    counted: bool = True,
) -> Reply:
    """The content of a reply, or ``ReplyError`` with the reason it is not usable.

    Never takes more memory than a copy of the arrays that came, and none before all headers agree.

    Args:
        report: the arrays that the report must consist of; None: any, if honest and finite.
        metrics: the names there must be besides "num-examples"; None: any.
        counted: the number of examples must be there; else, where it is missing, it is 1.
    """
    if message.has_error():
        raise ReplyError("no content: the reply is an error")
    arrays, reported, measured = _records(message, expected)
    num_examples, values = _numbers(measured, metrics, counted)
    # All headers before any value: a bad last array costs as little as a bad first one.
    array_headers = _headers("array", arrays, expected)
    report_headers = _headers("report", reported, report)
    return Reply(
        weights=_tensors("array", arrays, array_headers),
        num_examples=num_examples,
        metrics=values,
        report=_tensors("report", reported, report_headers),
    )


def npy_header(data: bytes) -> NpyHeader:
    """Read the header of a ``.npy`` file; nothing is evaluated.

    Raises:
        ReplyError: not ``.npy``, a header above ``MAX_HEADER`` or unlike numpy's, an unknown
            dtype, an object array, an impossible shape.
    """
    if data[:6] != b"\x93NUMPY" or data[6:8] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise ReplyError("is no .npy file of version 1 to 3")
    start = 10 if data[6] == 1 else 12
    length = int.from_bytes(data[8:start], "little")
    if length > MAX_HEADER:
        raise ReplyError(f"has a header of {length} bytes, at most {MAX_HEADER} allowed")
    text = data[start : start + length].decode("latin-1")
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ReplyError("has a header unlike numpy's")
    descr = match["descr"].strip("'")
    if "O" in descr:
        raise ReplyError(
            "is an object array, which only a pickle can carry; expected plain numbers"
        )
    if descr not in DTYPES:
        raise ReplyError(f"has dtype {descr[:20]!r}, which is none of {', '.join(DTYPES)}")
    shape = tuple(int(n) for n in match["shape"].replace(",", " ").split())
    if len(shape) > MAX_AXES or math.prod(n or 1 for n in shape) >= 2**62:
        raise ReplyError(f"claims the impossible shape {_short(shape)}")
    return NpyHeader(descr, match["fortran"] == "True", shape, start + length)


def _records(message: Message, expected: Expected) -> tuple[ArrayRecord, ArrayRecord, MetricRecord]:
    """The three records of a reply; a missing report is an empty one."""
    arrays, metrics = message.content.array_records, message.content.metric_records
    extra = sorted(set(arrays) - {ARRAYS, REPORT})
    if extra or (ARRAYS not in arrays and expected.arrays):
        names = listed(sorted(arrays)) or "none"
        raise ReplyError(f"array records: {names}; expected {ARRAYS!r} and at most {REPORT!r}")
    if set(metrics) != {METRICS}:
        raise ReplyError(
            f"metric records: {listed(sorted(metrics)) or 'none'}; expected {METRICS!r} only"
        )
    none = ArrayRecord()
    return arrays.get(ARRAYS, none), arrays.get(REPORT, none), metrics[METRICS]


def _numbers(
    record: MetricRecord, names: tuple[str, ...] | None, counted: bool
) -> tuple[float, dict[str, float]]:
    """The number of examples and the other metrics, all of them finite numbers."""
    if counted and NUM_EXAMPLES not in record:
        raise ReplyError(f"{NUM_EXAMPLES}: missing; expected a number above 0")
    values: dict[str, float] = {}
    for name, value in record.items():
        label = NUM_EXAMPLES if name == NUM_EXAMPLES else f"metric {name[:60]!r}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ReplyError(f"{label}: is of type {type(value).__name__}, expected a number")
        if not abs(value) <= sys.float_info.max:  # also what a whole number cannot be as a float
            shown = value if isinstance(value, float) else f"a number of {value.bit_length()} bits"
            raise ReplyError(f"{label}: is {shown}, expected a finite number")
        values[name] = float(value)
    num_examples = values.pop(NUM_EXAMPLES, 1.0)
    if not 0 < num_examples <= MAX_EXAMPLES:
        raise ReplyError(
            f"{NUM_EXAMPLES}: is {num_examples:g}, "
            f"expected a number above 0 and at most {MAX_EXAMPLES:g}"
        )
    if names is not None and set(values) != set(names):
        raise ReplyError(
            f"metrics: found {listed(sorted(values)) or 'none'}; expected {listed(names) or 'none'}"
        )
    return num_examples, values


def _headers(what: str, record: ArrayRecord, expected: Expected | None) -> dict[str, NpyHeader]:
    """The headers of the arrays, honest and as expected, in the order that is expected."""
    fault = expected.names_fault(record, f"{what}s") if expected else ""
    if fault:
        raise ReplyError(fault)
    headers = {}
    for name in expected.arrays if expected else record:
        try:
            headers[name] = honest_header(record[name], expected.arrays[name] if expected else None)
        except ReplyError as error:
            raise ReplyError(f"{what} {listed([name])}: {error}") from None
    return headers


def honest_header(array: Array, spec: Spec | None) -> NpyHeader:
    """Read the header of an array that agrees with its content, and with ``spec``.

    Raises:
        ReplyError: It does not.

    """
    if array.stype != "numpy.ndarray":
        raise ReplyError(f"is serialised as {array.stype[:40]!r}, expected 'numpy.ndarray'")
    header = npy_header(array.data)
    shape, dtype = header.shape, DTYPES[header.descr]
    if spec and shape != spec.shape:
        raise ReplyError(f"shape {_short(shape)}, expected {spec.shape}")
    if spec and dtype != spec.dtype:
        raise ReplyError(f"dtype {word(dtype)}, expected {word(spec.dtype)}")
    if tuple(array.shape) != shape:
        raise ReplyError(f"is announced as shape {_short(array.shape)} but holds {_short(shape)}")
    held = len(array.data) - header.offset
    size = dtype.itemsize * math.prod(shape)
    if held != size:
        raise ReplyError(f"holds {held} bytes of values, expected {size} for shape {_short(shape)}")
    return header


def _tensors(what: str, record: ArrayRecord, headers: dict[str, NpyHeader]) -> Weights:
    tensors = {}
    for name, header in headers.items():
        try:
            tensors[name] = _tensor(record[name].data, header)
        except ReplyError as error:
            raise ReplyError(f"{what} {listed([name])}: {error}") from None
    return tensors


def _tensor(data: bytes, header: NpyHeader) -> Tensor:
    """A copy of the values: the message's own bytes are read-only and soon gone."""
    if 0 in header.shape:
        return torch.empty(header.shape, dtype=DTYPES[header.descr])
    values = np.frombuffer(data, dtype=np.dtype(header.descr), offset=header.offset)
    if header.descr == "|b1" and values.view(np.uint8).max() > 1:
        raise ReplyError("holds bytes that are neither true nor false")
    shaped = values.reshape(header.shape, order="F" if header.fortran else "C")
    tensor = torch.from_numpy(shaped.copy())
    if tensor.is_floating_point() and not tensor.abs().max() <= MAX_MAGNITUDE:  # NaN is not
        raise ReplyError(unusable(tensor))
    return tensor


def _short(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) <= 60 else f"{text[:57]}..."
