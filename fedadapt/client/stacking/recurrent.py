"""Gated recurrent units of all clients: at every step one batched product of states and weights.

Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", in PyTorch's form:
the reset gate acts after the product.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedadapt.client.stacking.linear import affine
from fedadapt.client.stacking.value import Call, Stacked, Unstackable

Outputs = tuple[Stacked, Stacked]


def gru(path: str, layer: nn.GRU) -> Callable[[Call, Stacked], Outputs]:
    """Return a kernel for ``layer(x)``: the states of the last layer, and the last of every layer.

    ``x`` is [B, T, width] for one client (``batch_first``), or [T, B, width]. Initial states are
    zeros. A layer may have any depth and may be bidirectional.

    Raises:
        Unstackable: There is dropout between its layers, which would draw for all clients at once.

    """
    if layer.dropout and layer.num_layers > 1:
        raise Unstackable(f"{path}: a GRU with dropout")
    directions = ("", "_reverse") if layer.bidirectional else ("",)

    def kernel(call: Call, x: Stacked) -> Outputs:
        values = x.plain()
        if values.dim() != 4:
            raise Unstackable(f"{path}: sequences without a batch")
        if not layer.batch_first:
            values = values.transpose(1, 2)
        last = []
        for depth in range(layer.num_layers):
            states = [_run(path, layer, call, values, depth, way) for way in directions]
            last += [each[:, :, 0 if way else -1] for each, way in zip(states, directions,
                                                                       strict=True)]  # fmt: skip
            values = torch.cat(states, 3)
        if not layer.batch_first:
            values = values.transpose(1, 2)
        return Stacked(values, call.clients), Stacked(torch.stack(last, 1), call.clients)

    return kernel


def _run(path: str, layer: nn.GRU, call: Call, values: Tensor, depth: int, way: str) -> Tensor:
    """The states of one layer in one direction, [D, B, T, hidden], for values [D, B, T, width]."""
    weights = {
        name: call.weights.get(f"{path}.{name}_l{depth}{way}")
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    clients, batch, steps = values.shape[:3]
    entering, between = weights["weight_ih"], weights["weight_hh"]
    assert entering is not None
    assert between is not None
    rows = values.reshape(clients, batch * steps, -1)
    gates = affine(rows, entering, weights["bias_ih"], None).view(clients, batch, steps, -1)
    state = gates.new_zeros(clients, batch, layer.hidden_size)
    states: list[Tensor] = [state] * steps
    for step in reversed(range(steps)) if way else range(steps):
        own = affine(state, between, weights["bias_hh"], None)
        reset, update, new = gates[:, :, step].chunk(3, 2)
        of_reset, of_update, of_new = own.chunk(3, 2)
        keep = torch.sigmoid(update + of_update)
        candidate = torch.tanh(new + torch.sigmoid(reset + of_reset) * of_new)
        state = candidate + keep * (state - candidate)
        states[step] = state
    return torch.stack(states, 2)
