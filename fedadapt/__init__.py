"""Personalised federated learning: a model for every client, and what it was worth.

>>> import fedadapt                      # light: torch is loaded when something is used
>>> fedadapt.RunConfig(rounds=3).rounds
3
"""

from fedadapt.config import RunConfig
from fedadapt.errors import FedadaptError, InputError

__version__ = "0.2.0"

__all__ = ["FedadaptError", "InputError", "RunConfig", "__version__"]
