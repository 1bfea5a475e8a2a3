"""Switch a model's mode for a while, and put every submodule back as it was.

``model.train(was_training)`` would not do: it sets all submodules alike.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn

from fedadapt.models.norms import batch_norms

Mode = Callable[[nn.Module], AbstractContextManager[nn.Module]]
"""A way to switch a model for a while: one of the functions below."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Everything in evaluation mode: no dropout, batch norm by its running statistics."""
    with _restored(model):
        yield model.eval()


@contextmanager
def training(model: nn.Module) -> Iterator[nn.Module]:
    """Everything in training mode."""
    with _restored(model):
        yield model.train()


@contextmanager
def training_norms(model: nn.Module) -> Iterator[nn.Module]:
    """Only batch norm in training mode, so that a pass over images measures statistics: AdaBN."""
    with _restored(model):
        model.eval()
        for layer in batch_norms(model).values():
            layer.train()
        yield model


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training
