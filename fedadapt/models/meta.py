"""Copies of a network without its tensors, to compute with weights that come from elsewhere."""

import copy

import torch
from torch import nn

from fedadapt.models.shared_tensors import refuse_shared_tensors


def on_meta(model: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """Copy a network to the meta device, where a tensor that is missing in the weights crashes.

    Non-persistent buffers are in no ``state_dict``: they keep their values, on ``device`` or where
    they are.

    Raises:
        InputError: Two names of the ``state_dict`` are one tensor, which the copy would part.

    """
    refuse_shared_tensors(model)
    copied = copy.deepcopy(model)
    fixed = [
        (module, name, buffer)
        for module in copied.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name in module._non_persistent_buffers_set
    ]
    copied.to("meta")
    for module, name, buffer in fixed:
        setattr(module, name, buffer.to(device))
    return copied
