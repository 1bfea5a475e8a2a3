"""Importances made smaller for the upload: half precision, or one byte of logarithm a value.

A merge divides importances by each other, so what counts is the error in relation to a value,
however small: an ordinary 8-bit code, in equal steps up to the largest, would lose most of them.
Pure functions of stacked tensors [D, ...], coded tensor by tensor and client by client. What cannot
be an importance (NaN, infinity, below zero) is not hidden: it comes back as something that cannot.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fedadapt.weights import Weights

RANGE = "/range"  # beside log8 codes: log2 of what codes 1 and 255 stand for, [D, 2] float64
EXPONENT = "/exponent"  # beside fp16 values: log2 of their unit, [D] int16

LEVELS = 254  # steps between codes 1 and 255; 0 is an exact zero
OCTAVES = 40.0  # that the codes span below the largest value, 2^-40 of which is 1e-12
TOP = 15  # fp16 values stay below 2^15; the largest float16 is just below 2^16


class Code(Protocol):
    """How importances travel: ``decode(encode(x))`` is about ``x``, in float32."""

    def encode(self, importances: Weights) -> Weights: ...

    def decode(self, coded: Weights) -> Weights: ...

    def validation_errors(self, coded: Weights) -> dict[int, str]:
        """What is wrong with an upload of the right shapes, by row: anybody may have made it."""
        ...


class ValueByValue(NamedTuple):
    """Every value travels, by itself."""

    encode: Callable[[Weights], Weights]
    decode: Callable[[Weights], Weights]

    def validation_errors(self, coded: Weights) -> dict[int, str]:
        return impossible(self.decode(coded))


def impossible(importances: Weights) -> dict[int, str]:
    """Which rows hold what no importance is: one line naming the array."""
    wrong: dict[int, str] = {}
    for name, tensor in importances.items():
        fine = ((tensor >= 0) & tensor.isfinite()).unsqueeze(1).flatten(1).all(1)  # NaN is neither
        for d in (~fine).nonzero().flatten().tolist():
            wrong.setdefault(d, f"array {name!r}: importances must be finite and >= 0")
    return wrong


def to_float16(importances: Weights) -> Weights:
    """Each value as float16, in units of a power of two: 2 bytes a value and 2 a tensor.

    Within 2^-11 of values down to 2^-28 of the tensor's largest; below, within 2^-39 of that.
    """
    coded: Weights = {}
    for n, t in importances.items():
        x = t.double().reshape(len(t), -1)
        exponent = (torch.frexp(x.amax(1)).exponent - TOP).clamp(min=-1000).to(torch.int16)
        values = (x * torch.exp2(-exponent.double())[:, None]).half()
        values = values.masked_fill(x < 0, torch.nan)  # a small one would come back as zero
        coded[n] = values.reshape(t.shape)
        coded[n + EXPONENT] = exponent
    return coded


def from_float16(coded: Weights) -> Weights:
    """What ``to_float16`` made, in float32."""
    return {
        n: _each(torch.mul, t.double(), torch.exp2(coded[n + EXPONENT].double())).float()
        for n, t in coded.items()
        if not n.endswith(EXPONENT)
    }


def to_log8(importances: Weights) -> Weights:
    """Each value as the nearest of 255 in equal ratios: 1 byte a value and 16 a tensor.

    The ratios span the tensor's smallest to its largest value, ``OCTAVES`` octaves at most. With
    ``span`` octaves a value is within 2^(span / 508) - 1 of it: 5.6 % at most. What is smaller than
    the span counts as its lower end, never as zero; zeros are exact.
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
    """What ``to_log8`` made, in float32."""
    found: Weights = {}
    for n, t in coded.items():
        if n.endswith(RANGE):
            continue
        low, high = coded[n + RANGE].unbind(1)
        logs = _each(torch.add, _each(torch.mul, t.double() - 1, (high - low) / LEVELS), low)
        found[n] = torch.exp2(logs).masked_fill(t == 0, 0).float()
    return found


CODES: dict[str, Code] = {
    "fp32": ValueByValue(lambda importances: importances, lambda coded: coded),
    "fp16": ValueByValue(to_float16, from_float16),
    "log8": ValueByValue(to_log8, from_log8),
}


def _each(
    operation: Callable[[Tensor, Tensor], Tensor], stacked: Tensor, numbers: Tensor
) -> Tensor:
    """``operation`` on every value of row d [D, ...] and the number of client d [D]."""
    return operation(stacked, numbers.reshape(-1, *[1] * (stacked.dim() - 1)))
