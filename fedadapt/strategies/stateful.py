"""A strategy with its state, as the federated loop sees it: rounds, models, a state to save."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from fedadapt.server.exchange import Exchange
from fedadapt.strategies.base import Metadata, Strategy
from fedadapt.weights import Weights


class StatefulStrategy(Protocol):
    def begin(self, start: Weights, clients: Sequence[int]) -> None: ...

    def round(self, exchange: Exchange, sampled: Sequence[int]) -> None:
        """One federated round; leaves everything as it was when it raises."""
        ...

    def models(self, clients: Sequence[int]) -> Mapping[str, Weights]:
        """``base`` and, where the method makes them, ``personal`` models: each [D, ...]."""
        ...

    def models_by_task(self, clients: Sequence[int]) -> Iterator[tuple[int, Mapping[str, Weights]]]:
        """The same for each task that there is; without tasks, once as task 0."""
        ...

    @property
    def made_on_client(self) -> tuple[str, ...]:
        """Names of models that clients make of the base and their own state; nothing is sent."""
        ...

    def describe(self) -> dict[str, Metadata]:
        """What people want to know of the state: a JSON file each."""
        ...

    def pack(self) -> tuple[dict[str, Tensor], Metadata]: ...

    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> None: ...

    def pack_clients(self) -> Mapping[int, Mapping[str, Weights]]: ...

    def unpack_clients(self, clients: Mapping[int, Mapping[str, Weights]]) -> None:
        """What ``pack_clients`` packed, after ``unpack``."""
        ...


class StrategyWithState:
    """A strategy of ours, and its state."""

    def __init__(self, strategy: Strategy[object]) -> None:
        self._strategy = strategy
        self._state: object = None

    def begin(self, start: Weights, clients: Sequence[int]) -> None:
        self._state = self._strategy.begin(start, clients)

    def round(self, exchange: Exchange, sampled: Sequence[int]) -> None:
        strategy, state, number = self._strategy, self._state, exchange.round
        for action in strategy.actions(state, number):
            sent = strategy.send(state, action, number, sampled)
            expected = strategy.expected(action, {n: t[0] for n, t in sent.weights.items()})
            answers = exchange.ask(action, sent, expected, strategy.validation_errors)
            state = strategy.merge(state, action, number, answers)
        self._state = strategy.end(state, number)

    def models(self, clients: Sequence[int]) -> Mapping[str, Weights]:
        return self._strategy.models(self._state, clients)

    def models_by_task(self, clients: Sequence[int]) -> Iterator[tuple[int, Mapping[str, Weights]]]:
        return self._strategy.models_by_task(self._state, clients)

    @property
    def made_on_client(self) -> tuple[str, ...]:
        return self._strategy.made_on_client

    def describe(self) -> dict[str, Metadata]:
        return self._strategy.describe(self._state)

    def pack(self) -> tuple[dict[str, Tensor], Metadata]:
        return self._strategy.pack(self._state)

    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> None:
        self._state = self._strategy.unpack(tensors, metadata)

    def pack_clients(self) -> Mapping[int, Mapping[str, Weights]]:
        return self._strategy.pack_clients(self._state)

    def unpack_clients(self, clients: Mapping[int, Mapping[str, Weights]]) -> None:
        self._state = self._strategy.unpack_clients(self._state, clients)
