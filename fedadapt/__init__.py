"""Personalised federated learning: a model for every client, and what it was worth.

>>> import fedadapt                      # light: torch is loaded when something is used
>>> fedadapt.RunConfig(rounds=3).rounds
3
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError, InputError

__version__ = "0.2.0"

__all__ = [
    "Comparison",
    "FedadaptError",
    "InputError",
    "Run",
    "RunConfig",
    "__version__",
    "compare",
    "load",
    "simulate",
]

if TYPE_CHECKING:
    from fedadapt.runs.api import compare, simulate
    from fedadapt.runs.comparison import Comparison
    from fedadapt.runs.run import Run
    from fedadapt.saved_models.load import load

LATER = {
    "Comparison": "fedadapt.runs.comparison",
    "Run": "fedadapt.runs.run",
    "compare": "fedadapt.runs.api",
    "load": "fedadapt.saved_models.load",
    "simulate": "fedadapt.runs.api",
}
"""What is imported when it is asked for -> its module."""


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for."""
    if name in LATER:
        return getattr(import_module(LATER[name]), name)
    raise AttributeError(f"module 'fedadapt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER})
