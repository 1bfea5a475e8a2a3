"""The strategy that a run names, with its arguments, before anything of the run is there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fedadapt.config import RunConfig
from fedadapt.datasets.own.names import is_own
from fedadapt.errors import InputError
from fedadapt.parameters import arguments_for, fields_from_run
from fedadapt.strategies.base import SETTINGS, ClientSide, Run, ServerSide, Strategy
from fedadapt.strategies.stateful import StatefulStrategy, StrategyWithState


class Selected(Protocol):
    """What a run needs of its strategy, whichever interface it implements."""

    @property
    def name(self) -> str:
        """The name by which the run names it."""
        ...

    @property
    def learns_tasks(self) -> bool:
        """Whether it is for task-incremental benchmarks, and only for them."""
        ...

    @property
    def trains_on_server(self) -> bool:
        """Whether it trains on images that the server has."""
        ...

    @property
    def settings(self) -> frozenset[str]:
        """The settings of a run, in kebab-case, that have an effect on it."""
        ...

    def try_out(self, clients: int) -> None:
        """Refuse what can only be told by trying, with so many clients in a round."""
        ...

    def on_client(self, run: Run) -> ClientSide:
        """Return the strategy as clients know it."""
        ...

    def on_server(self, strategy: Any, server: ServerSide) -> StatefulStrategy:
        """Return the strategy as the server runs it; ``strategy`` is that of ``on_client``."""
        ...


@dataclass(frozen=True)
class SelectedStrategy:
    """A class of our interface, and the arguments given for it."""

    name: str
    cls: type[Strategy[Any]]
    arguments: Mapping[str, Any]

    @staticmethod
    def of(
        config: RunConfig, cls: type[Strategy[Any]], given: Mapping[str, Any]
    ) -> "SelectedStrategy":
        """Check the arguments of a run; see ``registry.select``."""
        arguments = arguments_for(cls, given, "strategy-args", config.strategy)
        if cls.trains_on_server and is_own(config.benchmark) and not config.server_data:
            raise InputError(
                f"server-data: {config.strategy} trains on pictures of the server; give its folder "
                "<class>/*.jpg"
            )
        if cls.trains_on_server and not (config.server_share or config.server_data):
            raise InputError(
                f"server-share: {config.strategy} trains on images that the server has; give it "
                "some of the data set's, e.g. server-share=0.2"
            )
        cls.check(arguments, config)
        return SelectedStrategy(config.strategy, cls, arguments)

    @property
    def learns_tasks(self) -> bool:
        return self.cls.learns_tasks

    @property
    def trains_on_server(self) -> bool:
        return self.cls.trains_on_server

    @property
    def settings(self) -> frozenset[str]:
        return settings_of(self.cls)

    def try_out(self, clients: int) -> None:
        """Nothing: its arguments have described ranges, which were checked."""

    def on_client(self, run: Run) -> Strategy[Any]:
        given = {name: getattr(run, name) for name in fields_from_run(self.cls)}
        return self.cls(**given, **self.arguments)

    def on_server(self, strategy: Any, server: ServerSide) -> StatefulStrategy:
        return StrategyWithState(strategy.prepare(server))


SAMPLING = frozenset({"fraction", "max-update-norm", "max-update-factor"})
"""Settings of rounds in which some of the clients train."""
OF_SERVER = frozenset({"server-share"})
"""Settings of training on images that the server has."""


def settings_of(cls: type[ClientSide]) -> frozenset[str]:
    """Name the settings that the fields of a strategy are made from."""
    made_from = frozenset[str]().union(*(SETTINGS[name] for name in fields_from_run(cls)))
    if not issubclass(cls, Strategy) or cls.samples_clients:
        made_from |= SAMPLING
    if issubclass(cls, Strategy) and cls.trains_on_server:
        made_from |= OF_SERVER
    return made_from - cls.ignores
