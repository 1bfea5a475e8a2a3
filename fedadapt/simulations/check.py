"""Everything about a configuration that can be refused before torch is loaded."""

import importlib.util

from fedadapt.client.adaptations import settings as adaptations
from fedadapt.config import RunConfig
from fedadapt.datasets.data_spec import check_data
from fedadapt.datasets.task_incremental.task_entries import TASK_ENTRIES, find_tasks, is_tasks
from fedadapt.datasets.task_incremental.task_spec import check_tasks
from fedadapt.errors import InputError
from fedadapt.models.limits import check_model
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
    adaptations.parse(config)
    strategies.check(config)
    check_model(config)
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
        check_data(config)


def _mismatch(config: RunConfig) -> str:
    if is_tasks(config.benchmark):
        return (
            f"strategy: {config.strategy}; {config.benchmark} is learnt task after task by the "
            f"server: use {', '.join(VARIANTS)}"
        )
    names = ", ".join(entry.name for entry in TASK_ENTRIES)
    return f"benchmark: {config.benchmark}; {config.strategy} needs one with tasks: {names}"
