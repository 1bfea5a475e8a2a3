"""Settings that were given and that nothing of a run uses: an error, for silence would mislead."""

from collections.abc import Collection, Iterator

from fedadapt.config import RunConfig
from fedadapt.datasets.own.names import OWN, is_own
from fedadapt.errors import InputError
from fedadapt.strategies.base import SETTINGS
from fedadapt.strategies.selected import OF_SERVER, SAMPLING, Selected

OF_STRATEGIES = frozenset[str]().union(*SETTINGS.values()) | SAMPLING | OF_SERVER
OF_RAY = frozenset({"ray-address", "gpus-per-worker"})
OF_FLOWER = frozenset({"node-wait", "max-weight-factor"})
OF_OUR_ENGINES = frozenset({"engine", "workers", "cohort-size"})
OF_OWN_DATA = frozenset({"classes", "roster", "server-data"})
OF_CLIENTS_THAT_TRAIN = frozenset(
    {"global-test", "local", "serve", "confidence", "early-stopping", "best-round"}
)


def refuse_unused(
    config: RunConfig, given_keys: Collection[str], selected: Selected, *, flower: bool = False
) -> None:
    """Refuse settings that have no effect on this run.

    Args:
        given_keys: The keys that were given, in kebab-case.
        flower: Flower computes the clients (``flwr run``), and no engine of ours.

    Raises:
        InputError: One line that names the settings and what does not use them.

    """
    for keys, what in _no_effect(config, selected, flower=flower):
        unused = sorted(set(given_keys) & keys)
        if unused:
            pronoun = "it" if len(unused) == 1 else "them"
            raise InputError(
                f"{', '.join(unused)}: {what} does not use {pronoun}; leave {pronoun} out"
            )


def _no_effect(
    config: RunConfig, selected: Selected, *, flower: bool
) -> Iterator[tuple[frozenset[str], str]]:
    """Keys without effect, and what has no use for them."""
    yield OF_STRATEGIES - selected.settings, selected.name
    if config.optimizer == "adam":
        yield frozenset({"momentum"}), "optimizer=adam"
    if not is_own(config.benchmark):
        yield OF_OWN_DATA, config.benchmark
    elif config.benchmark != OWN:
        yield frozenset({"roster"}), config.benchmark
    if selected.learns_tasks:
        yield OF_CLIENTS_THAT_TRAIN, config.benchmark
    if flower:
        # Clients keep their states themselves, those of the last round.
        yield OF_OUR_ENGINES | OF_RAY | {"best-round"}, "flwr run"
        return
    yield OF_FLOWER, f"engine={config.engine}"
    if config.engine != "ray":
        yield OF_RAY, f"engine={config.engine}"
