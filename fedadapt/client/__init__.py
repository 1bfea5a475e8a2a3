"""What a client computes: pure functions of stacked weights; the Flower adapters come on top.

Its public functions are loaded when they are first used: settings below this folder are read by the
command line, which does without torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedadapt.client.api import adapt, importance, sparsity

__all__ = ["adapt", "importance", "sparsity"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from fedadapt.client import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
