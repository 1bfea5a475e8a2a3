"""Everything about a configuration that can be refused before the data are read."""

import importlib.util
from collections.abc import Collection
from typing import Any

from fedadapt.client.adaptations import registry as adaptations
from fedadapt.config import RunConfig
from fedadapt.datasets.data_spec import check_data
from fedadapt.datasets.own.names import OWN, REHEARSAL, is_own
from fedadapt.datasets.own.settings import check_own, server_folders
from fedadapt.datasets.task_incremental.task_entries import TASK_ENTRIES, find_tasks, is_tasks
from fedadapt.datasets.task_incremental.task_spec import check_tasks
from fedadapt.errors import InputError
from fedadapt.models.limits import check_model
from fedadapt.models.registry import find_network
from fedadapt.simulations.tracking.registry import check_trackers
from fedadapt.strategies.registry import STRATEGIES, find, is_flowers, select

NEEDED = {"pyarrow": "result tables", "matplotlib": "pictures", "jinja2": "reports"}


def check(
    config: RunConfig, given_keys: Collection[str] | None = None, *, flower: bool = False
) -> None:
    """Refuse what cannot work, in one line.

    Names are checked first, without loading anything; then the classes of the adaptations and of
    the strategy are imported, and with them torch.

    Args:
        given_keys: The keys that were given, in kebab-case; one that nothing uses is refused.
            None stands for those whose values are not the defaults.
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
    if flower and config.checkpoint_every > 1:
        raise InputError(
            f"checkpoint-every: {config.checkpoint_every}; clients of Flower remember a few rounds "
            "only, so their server saves every round: leave it out"
        )
    check_trackers(config.track)
    STRATEGIES.path(config.strategy)
    adaptations.arguments_by_name(config)
    check_model(config)
    if is_tasks(config.benchmark):
        check_tasks(config)
    elif is_own(config.benchmark):
        check_own(config)
    else:
        check_data(config)
    if config.benchmark == OWN and not flower:
        raise InputError(
            f"benchmark: {OWN} is the data of real clients, over Flower; try it out with "
            f"{REHEARSAL}/folder of <client>/<class>/*.jpg"
        )
    entry = find_network(config.model)
    adaptations.parse(config, has_batch_norm=entry.batch_norm if entry else None)
    selected = select(config)
    of_server: Collection[str] = ()
    if config.server_data and not selected.trains_on_server:
        of_server = server_folders(config)
    if (is_tasks(config.benchmark) or bool(of_server)) != selected.learns_tasks:
        raise InputError(_mismatch(config))
    tasks = len(of_server or find_tasks(config.benchmark).tasks) if selected.learns_tasks else 0
    if selected.learns_tasks and config.rounds > tasks:
        raise InputError(
            f"rounds: {config.rounds}; a round is a task, and {config.benchmark} has {tasks}: "
            f"set rounds={tasks} or less"
        )
    from fedadapt.simulations.unused import refuse_unused

    given_keys = config.changed if given_keys is None else given_keys
    refuse_unused(config, given_keys, selected, flower=flower)
    seen = max(1, config.clients - round(config.unseen * config.clients))
    selected.try_out(max(1, round(config.fraction * seen)))


def _mismatch(config: RunConfig) -> str:
    if is_own(config.benchmark) and not config.server_data:
        return (
            f"server-data: {config.strategy} trains experts on pictures of the server; give its "
            "folder <task>/<class>/*.jpg"
        )
    if config.server_data:
        return (
            f"server-data: {config.strategy} has no use for pictures of the server; leave it out, "
            f"or use {', '.join(_using_server_data())}"
        )
    if is_tasks(config.benchmark):
        return (
            f"strategy: {config.strategy}; {config.benchmark} is learnt task after task by the "
            f"server: use {', '.join(_learning_tasks())}"
        )
    names = ", ".join(entry.name for entry in TASK_ENTRIES)
    return f"benchmark: {config.benchmark}; {config.strategy} needs one with tasks: {names}"


def _learning_tasks() -> list[str]:
    return [name for name, cls in _ours().items() if cls.learns_tasks]


def _using_server_data() -> list[str]:
    return [name for name, cls in _ours().items() if cls.learns_tasks or cls.trains_on_server]


def _ours() -> dict[str, type[Any]]:
    classes = {name: find(name) for name in STRATEGIES.ours}
    return {name: cls for name, cls in classes.items() if not is_flowers(cls)}
