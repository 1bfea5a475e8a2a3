"""Embeddings of all clients: each client looks its tokens up in a table of its own."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from fedadapt.client.stacking.value import Call, Stacked, Unstackable


def embedding(path: str, layer: nn.Embedding) -> Callable[[Call, Stacked], Stacked]:
    """Return a kernel for tokens [D, B, ...] and tables [D, vocabulary, width].

    The tables of all clients are one long table, in which a client's tokens begin at its own rows.

    Raises:
        Unstackable: The layer treats one token apart, renews its rows or has sparse gradients.

    """
    if layer.padding_idx is not None or layer.max_norm is not None:
        raise Unstackable(f"{path}: an embedding with padding_idx or max_norm")
    if layer.scale_grad_by_freq or layer.sparse:
        raise Unstackable(f"{path}: an embedding with gradients of its own kind")

    def kernel(call: Call, x: Stacked) -> Stacked:
        tokens = x.plain()
        if tokens.numel() and int(tokens.max()) >= layer.num_embeddings:
            raise IndexError(f"{path}: token {int(tokens.max())} of {layer.num_embeddings}")
        first = torch.arange(call.clients, device=tokens.device) * layer.num_embeddings
        rows = tokens + first.view(-1, *[1] * (tokens.dim() - 1))
        table = call.weights[f"{path}.weight"].flatten(0, 1)
        return Stacked(F.embedding(rows, table), call.clients)

    return kernel
