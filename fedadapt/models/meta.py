"""A network without its tensors: what weights are put into to compute with them."""

import copy

import torch
from torch import nn


def on_meta(model: nn.Module, device: torch.device | str | None = None) -> nn.Module:
    """A copy on the meta device, where a tensor that ``state_dict`` forgot crashes.

    Non-persistent buffers are in no ``state_dict``: they keep their values, on ``device`` or where
    they are.
    """
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
