"""What a network takes: real numbers of a shape, or tokens, and inputs to try it with."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedadapt.errors import InputError


def embedding_of_tokens(model: nn.Module) -> nn.Embedding | None:
    """The embedding that a network for tokens begins with; None where inputs are real numbers.

    It is the first layer, in the order of definition, that holds tensors.
    """
    for layer in model.modules():
        if any(True for _ in layer.parameters(recurse=False)):
            return layer if isinstance(layer, nn.Embedding) else None
    return None


def blank(
    model: nn.Module, shape: Sequence[int], count: int = 1, device: torch.device | str = "cpu"
) -> Tensor:
    """Inputs of zeros, [count, *shape], in the type that the network takes.

    On the meta device they are as cheap as their shape.
    """
    if embedding_of_tokens(model) is not None:
        return torch.zeros((count, *shape), dtype=torch.int64, device=device)
    kind = next((p.dtype for p in model.parameters()), torch.float32)
    return torch.zeros((count, *shape), dtype=kind, device=device)


def check_vocabulary(model: nn.Module, name: str, vocabulary: int) -> None:
    """Refuse a network for tokens on other inputs, and one for other inputs on tokens.

    Args:
        name: The network, for the message.
        vocabulary: Number of different tokens; 0 where inputs are real numbers.

    Raises:
        InputError: They do not fit, or the network knows fewer tokens than there are.

    """
    embedding = embedding_of_tokens(model)
    if embedding is None and vocabulary:
        raise InputError(
            f"model: {name!r} takes real numbers, and these inputs are tokens; use char-gru, or a "
            "network that begins with nn.Embedding"
        )
    if embedding is not None and not vocabulary:
        raise InputError(f"model: {name!r} takes tokens, and these inputs are real numbers")
    if embedding is not None and embedding.num_embeddings < vocabulary:
        raise InputError(
            f"model: {name!r} knows {embedding.num_embeddings} tokens, and there are {vocabulary}"
        )


def refuse_tokens(model: nn.Module, strategy: str, why: str) -> None:
    """Refuse a network for tokens where a strategy computes with its inputs as numbers.

    Raises:
        InputError: The network begins with an embedding.

    """
    if embedding_of_tokens(model) is not None:
        raise InputError(f"strategy: {strategy} {why}; tokens are names, not quantities")
