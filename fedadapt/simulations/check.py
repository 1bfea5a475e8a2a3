"""Everything about a configuration that can be refused before data or a network are made."""

import importlib.util

from fedadapt.client.adaptations import registry as adaptations
from fedadapt.config import RunConfig
from fedadapt.datasets import catalog as datasets
from fedadapt.datasets.task_incremental.catalog import TASK_CATALOG, find_tasks, is_tasks
from fedadapt.datasets.task_incremental.catalog import check as check_tasks
from fedadapt.errors import InputError
from fedadapt.models import catalog as models
from fedadapt.strategies import catalog as strategies
from fedadapt.strategies.dua.variants import VARIANTS

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
    adaptations.arguments_by_name(config)  # their names; their classes, which load torch, are last
    strategies.check(config)
    models.check(config)
    if is_tasks(config.benchmark) != strategies.learns_tasks(config.strategy):
        raise InputError(_mismatch(config))
    if is_tasks(config.benchmark):
        check_tasks(config)
        if config.rounds > len(find_tasks(config.benchmark).tasks):
            tasks = len(find_tasks(config.benchmark).tasks)
            raise InputError(
                f"rounds: {config.rounds}; a round is a task, and {config.benchmark} has {tasks}: "
                f"set rounds={tasks} or less"
            )
    else:
        datasets.check(config)
    entry = models.find(config.model)
    adaptations.parse(config, has_batch_norm=entry.batch_norm if entry else None)


def _mismatch(config: RunConfig) -> str:
    if is_tasks(config.benchmark):
        return (
            f"strategy: {config.strategy}; {config.benchmark} is learnt task after task by the "
            f"server: use {', '.join(VARIANTS)}"
        )
    names = ", ".join(entry.name for entry in TASK_CATALOG)
    return f"benchmark: {config.benchmark}; {config.strategy} needs one with tasks: {names}"
