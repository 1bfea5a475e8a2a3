"""Multiply-adds of whatever runs: those of its matrix products and convolutions, counted."""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(run: Callable[[], object]) -> int:
    """Run once, and count the multiply-adds, forward and backward.

    Operations that go number by number, such as a step of SGD or an activation, count as nothing.
    """
    formulas = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def _convolution_backward(
    grad_out: Sequence[int],
    inputs: Sequence[int],
    filters: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    """As many as forward for each of the two gradients, by the inputs and by the filters.

    PyTorch's own formula takes each channel's filter of a depthwise convolution for one of all.
    """
    places = prod((inputs if transposed else grad_out)[2:])
    forward = 2 * inputs[0] * places * prod(filters)
    return forward * (bool(wanted[0]) + bool(wanted[1]))
