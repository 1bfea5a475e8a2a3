"""Refuse a network in which one tensor has two names.

Weights travel, are averaged and are trained by name. The two names of a shared tensor would become
two independent tensors after the first round, and nothing would say so.
"""

from torch import Tensor, nn

from fedadapt.errors import InputError


def refuse_shared_tensors(model: nn.Module) -> None:
    """Raise an error if two entries of ``model.state_dict()`` are one tensor or share its memory.

    A layer that is registered once and called several times is fine, and so is a layer without
    tensors (an activation, a pooling) that is registered under several names.

    Raises:
        InputError: Two entries share their memory; the message gives both names.

    """
    names: dict[object, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            continue
        first = names.setdefault(_memory(tensor), name)
        if first != name:
            raise InputError(
                f"model: {first!r} and {name!r} are one tensor; weights are exchanged by name, so "
                "that the two would drift apart: give each layer its own tensor, or register the "
                "layer once and call it twice"
            )


def _memory(tensor: Tensor) -> object:
    """A key that is equal for two tensors exactly if they are the same values in memory."""
    if tensor.is_meta or not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
