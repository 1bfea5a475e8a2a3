"""Compress importances for the upload: half precision, or the logarithm of a value in one byte.

A merge divides importances by each other, so the relative error of each value matters, however
small the value is. An ordinary 8-bit code, with equal steps up to the largest value, would lose
most of them. The functions are pure; they code stacked tensors [D, ...] separately for each tensor
and each client. Invalid values (NaN, infinite, negative) stay invalid, so that they are rejected.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fedadapt.weights import Weights

RANGE = "/range"  # beside log8 codes: log2 of the values of codes 1 and 255, [D, 2] float64
EXPONENT = "/exponent"  # beside fp16 values: log2 of their unit, [D] int16

LEVELS = 254  # steps between codes 1 and 255; 0 is an exact zero
OCTAVES = 40.0  # spanned by the codes, downwards from the largest value; 2^-40 is 1e-12
TOP = 15  # fp16 values stay below 2^15; the largest float16 is just below 2^16


class Code(Protocol):
    """A code for importances: ``decode(encode(x))`` is about ``x``, in float32."""

    def encode(self, importances: Weights) -> Weights: ...

    def decode(self, coded: Weights) -> Weights: ...

    def validation_errors(self, coded: Weights) -> dict[int, str]:
        """Describe the faults of an upload that has the right shapes, by row."""
        ...


class ValueByValue(NamedTuple):
    """A code that encodes every value by itself."""

    encode: Callable[[Weights], Weights]
    decode: Callable[[Weights], Weights]

    def validation_errors(self, coded: Weights) -> dict[int, str]:
        return impossible(self.decode(coded))


def impossible(importances: Weights) -> dict[int, str]:
    """Describe the rows with values that no importance can have, in one line naming the array."""
    wrong: dict[int, str] = {}
    for name, tensor in importances.items():
        least, most = tensor.aminmax() if tensor.numel() else (0, 0)
        if least >= 0 and most < torch.inf:  # NaN is neither; as a rule nothing is wrong
            continue
        fine = ((tensor >= 0) & tensor.isfinite()).unsqueeze(1).flatten(1).all(1)  # NaN is neither
        for d in (~fine).nonzero().flatten().tolist():
            wrong.setdefault(d, f"array {name!r}: importances must be finite and >= 0")
    return wrong


def to_float16(importances: Weights) -> Weights:
    """Encode values as float16, in units of a power of two: 2 bytes a value and 2 a tensor.

    The relative error is at most 2^-11 for values down to 2^-28 of the largest of the tensor;
    below that, the absolute error is at most 2^-39 of the largest.
    """
    coded: Weights = {}
    for n, t in importances.items():
        x = t.double().reshape(len(t), -1)
        exponent = (torch.frexp(x.amax(1)).exponent - TOP).clamp(min=-1000).to(torch.int16)
        values = (x * torch.exp2(-exponent.double())[:, None]).half()
        values = values.masked_fill(x < 0, torch.nan)  # a small one would be decoded as zero
        coded[n] = values.reshape(t.shape)
        coded[n + EXPONENT] = exponent
    return coded


def from_float16(coded: Weights) -> Weights:
    """Decode what ``to_float16`` encoded, to float32."""
    return {
        n: _each(torch.mul, t.double(), torch.exp2(coded[n + EXPONENT].double())).float()
        for n, t in coded.items()
        if not n.endswith(EXPONENT)
    }


def to_log8(importances: Weights) -> Weights:
    """Encode values as the nearest of 255 levels in equal ratios: 1 byte a value, 16 a tensor.

    The levels span the smallest to the largest value of the tensor, at most ``OCTAVES`` octaves.
    With ``span`` octaves, the relative error is at most 2^(span / 508) - 1, or 5.6 %. A value below
    the span is encoded as its lower end and never as zero; zeros are exact.
    """
    coded: Weights = {}
    for n, t in importances.items():
        x = t.double().reshape(len(t), -1)
        logs, zero = x.log2(), x == 0
        high = logs.amax(1)
        high = torch.where(high == -torch.inf, 0.0, high)  # all are zero
        low = torch.maximum(logs.masked_fill(zero, torch.inf).amin(1), high - OCTAVES)
        low = torch.minimum(low, high)
        step = ((high - low) / LEVELS).clamp(min=torch.finfo(torch.float64).tiny)
        codes = ((logs - low[:, None]) / step[:, None]).round().nan_to_num().clamp(0, LEVELS) + 1
        coded[n] = codes.masked_fill(zero, 0).to(torch.uint8).reshape(t.shape)
        coded[n + RANGE] = torch.stack([low, high], dim=1)
    return coded


def from_log8(coded: Weights) -> Weights:
    """Decode what ``to_log8`` encoded, to float32."""
    decoded: Weights = {}
    for n, t in coded.items():
        if n.endswith(RANGE):
            continue
        low, high = coded[n + RANGE].unbind(1)
        logs = _each(torch.add, _each(torch.mul, t.double() - 1, (high - low) / LEVELS), low)
        decoded[n] = torch.exp2(logs).masked_fill(t == 0, 0).float()
    return decoded


CODES: dict[str, Code] = {
    "fp32": ValueByValue(lambda importances: importances, lambda coded: coded),
    "fp16": ValueByValue(to_float16, from_float16),
    "log8": ValueByValue(to_log8, from_log8),
}


def _each(
    operation: Callable[[Tensor, Tensor], Tensor], stacked: Tensor, numbers: Tensor
) -> Tensor:
    """Apply ``operation`` to every value of row d [D, ...] and the number of client d [D]."""
    return operation(stacked, numbers.reshape(-1, *[1] * (stacked.dim() - 1)))
