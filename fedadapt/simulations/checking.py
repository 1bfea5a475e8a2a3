"""Everything about a configuration that can be refused before torch is loaded."""

import importlib.util

from fedadapt import adaptations
from fedadapt.config import RunConfig
from fedadapt.datasets import catalog as datasets
from fedadapt.errors import InputError
from fedadapt.models import catalog as models
from fedadapt.strategies import catalog as strategies

NEEDED = {"pyarrow": "result tables", "matplotlib": "pictures", "jinja2": "reports"}


def check(config: RunConfig) -> None:
    """Refuse what cannot work, in one line.

    Raises:
        InputError: unknown names, malformed arguments, missing files, impossible combinations.

    """
    for module, purpose in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise InputError(
                f'{module}: not installed; {purpose} need it: pip install "fedadapt[simulation]"'
            )
    adaptations.parse(config)
    strategies.check(config)
    models.check(config)
    datasets.check(config)
