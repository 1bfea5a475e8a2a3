"""Everything about a configuration that can be refused before the data are read."""

import importlib.util
from collections.abc import Collection

from fedadapt.client.adaptations import registry as adaptations
from fedadapt.config import RunConfig
from fedadapt.datasets import catalog as datasets
from fedadapt.datasets.task_incremental.catalog import TASK_CATALOG, find_tasks, is_tasks
from fedadapt.datasets.task_incremental.catalog import check as check_tasks
from fedadapt.errors import InputError
from fedadapt.models import catalog as models
from fedadapt.strategies.registry import STRATEGIES, find, is_flowers, select

NEEDED = {"pyarrow": "result tables", "matplotlib": "pictures", "jinja2": "reports"}


def check(config: RunConfig, given: Collection[str] | None = None, *, flower: bool = False) -> None:
    """Refuse what cannot work, in one line.

    Names are checked first, without loading anything; then the classes of the adaptations and of
    the strategy are imported, and with them torch.

    Args:
        given: The keys that were given, in kebab-case, for settings that nothing uses; None: those
            whose values are not the defaults.
        flower: Flower computes the clients (``flwr run``).

    Raises:
        InputError: unknown names, malformed arguments, missing files, impossible combinations,
            settings without effect.

    """
    for module, purpose in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise InputError(
                f'{module}: not installed; {purpose} need it: pip install "fedadapt[simulation]"'
            )
    STRATEGIES.path(config.strategy)
    adaptations.arguments_by_name(config)
    models.check(config)
    if is_tasks(config.benchmark):
        check_tasks(config)
    else:
        datasets.check(config)
    entry = models.find(config.model)
    adaptations.parse(config, has_batch_norm=entry.batch_norm if entry else None)
    selected = select(config)
    if is_tasks(config.benchmark) != selected.learns_tasks:
        raise InputError(_mismatch(config))
    if selected.learns_tasks and config.rounds > len(find_tasks(config.benchmark).tasks):
        tasks = len(find_tasks(config.benchmark).tasks)
        raise InputError(
            f"rounds: {config.rounds}; a round is a task, and {config.benchmark} has {tasks}: "
            f"set rounds={tasks} or less"
        )
    from fedadapt.simulations.unused import refuse_unused

    refuse_unused(config, config.changed if given is None else given, selected, flower=flower)


def _mismatch(config: RunConfig) -> str:
    if is_tasks(config.benchmark):
        return (
            f"strategy: {config.strategy}; {config.benchmark} is learnt task after task by the "
            f"server: use {', '.join(_learning_tasks())}"
        )
    names = ", ".join(entry.name for entry in TASK_CATALOG)
    return f"benchmark: {config.benchmark}; {config.strategy} needs one with tasks: {names}"


def _learning_tasks() -> list[str]:
    classes = {name: find(name) for name in STRATEGIES.ours}
    return [n for n, cls in classes.items() if not is_flowers(cls) and cls.learns_tasks]
