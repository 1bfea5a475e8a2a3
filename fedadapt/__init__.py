"""Personalised federated learning: a model for every client, and what it was worth.

>>> import fedadapt                      # light: torch is loaded when something is used
>>> fedadapt.RunConfig(rounds=3).rounds
3
"""

from typing import TYPE_CHECKING, Any

from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError, InputError

__version__ = "0.2.0"

__all__ = ["FedadaptError", "InputError", "RunConfig", "__version__", "load"]

if TYPE_CHECKING:
    from fedadapt.saved_models.load import load


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for."""
    if name == "load":
        from fedadapt.saved_models.load import load

        return load
    raise AttributeError(f"module 'fedadapt' has no attribute {name!r}")
