"""Batch normalisation, found by type: a layer's name says nothing."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Every batch-norm layer of any dimension, by its dotted path, in definition order."""
    return {path: m for path, m in model.named_modules() if isinstance(m, _BatchNorm)}


def normalised_by_batch(model: nn.Module) -> tuple[str, ...]:
    """Paths of the batch-norm layers that keep no running statistics.

    They normalise by the batch they see in evaluation mode as well, so that an image's activations
    depend on which other images go through the network with it.
    """
    return tuple(path for path, m in batch_norms(model).items() if m.running_mean is None)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether AdaBN, and the policies for batch-norm statistics, have something to work on."""
    return bool(batch_norms(model))
