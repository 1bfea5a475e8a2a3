"""A network for a stack of clients, made automatically from an ordinary one.

``trace(model)`` follows the model with ``torch.fx`` and puts a stacked kernel in the place of each
layer and function it knows; ``plan(model, ...)`` says whether that, ``vmap`` or one client after
another is the fast way to compute it.
"""

from fedadapt.client.stacking.network import StackedNetwork, Unstackable, trace
from fedadapt.client.stacking.rule import Plan, gains_from_bf16, plan

__all__ = ["Plan", "StackedNetwork", "Unstackable", "gains_from_bf16", "plan", "trace"]
