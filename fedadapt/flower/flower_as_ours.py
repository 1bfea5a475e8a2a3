"""A stock or third-party Flower strategy as a method of ours: same rounds, checks and records."""

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy import Strategy as Flower
from torch import Tensor

from fedadapt.errors import InputError, nearest
from fedadapt.flower import records
from fedadapt.flower.grid_over_clients import (
    PATIENCE,
    GridOverClients,
    floats,
    flower_identity,
)
from fedadapt.flower.stock.arguments import (
    TRIED_WITH,
    MadeUpExchange,
    checked,
    constructor_parameters,
    try_out,
)
from fedadapt.flower.stock.client import StockClient
from fedadapt.flower.stock.state import Packed, StrategyState
from fedadapt.server.exchange import Exchange, RoundFailedError
from fedadapt.strategies.base import Metadata, Run, ServerSide
from fedadapt.strategies.selected import settings_of
from fedadapt.weights import Weights, repeat

log = logging.getLogger(__name__)


class FlowerStrategyWithState:
    """Drives the five hooks of a Flower strategy: configure, aggregate, and the same to evaluate.

    The strategy samples among the clients that ``fraction`` has drawn for the round, with Python's
    global generator seeded by (seed, round) meanwhile. Its evaluation runs on the clients' adapt
    images, never on their tests.
    """

    def __init__(self, strategy: Flower, *, seed: int, patience: int = PATIENCE) -> None:
        """Drive a strategy that has just been constructed.

        Args:
            patience: See ``GridOverClients``.

        """
        self._strategy = strategy
        self._state = StrategyState(strategy)
        self._patience = patience
        self._seed = seed
        self._weights: Weights = {}

    def begin(self, start: Weights, clients: Sequence[int]) -> None:
        self._weights = dict(start)

    def round(self, exchange: Exchange, sampled: Sequence[int]) -> None:
        grid = GridOverClients(exchange, sampled, self._weights, self._patience)
        number = exchange.round
        with flower_identity(), _quiet(), _sampling_seed(self._seed, number):
            arrays = records.array_record(floats(self._weights))
            messages = self._strategy.configure_train(number, arrays, ConfigRecord(), grid)
            replies = grid.send_and_receive(messages)
            aggregated, _ = self._strategy.aggregate_train(number, replies)
            if aggregated is not None:
                self._weights = self._taken(aggregated)
                arrays = records.array_record(floats(self._weights))
            messages = self._strategy.configure_evaluate(number, arrays, ConfigRecord(), grid)
            try:
                scores = grid.send_and_receive(messages)
            except RoundFailedError as failure:  # the model has been trained all the same
                log.warning("round %d: %s", number, failure)
                return
            self._strategy.aggregate_evaluate(number, scores)

    def models(self, clients: Sequence[int]) -> Mapping[str, Weights]:
        return {"base": repeat(self._weights, len(clients))}

    def models_by_task(self, clients: Sequence[int]) -> Iterator[tuple[int, Mapping[str, Weights]]]:
        yield 0, self.models(clients)

    @property
    def made_on_client(self) -> tuple[str, ...]:
        return ()

    def describe(self) -> dict[str, Metadata]:
        return {}

    def pack(self) -> tuple[dict[str, Tensor], Metadata]:
        """The model, and the strategy's own attributes (momenta, step counts, lists)."""
        tensors, metadata = self._state.pack()
        return tensors | {f"model/{n}": t for n, t in self._weights.items()}, {**metadata}

    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> None:
        prefix = "model/"
        self._weights = {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}
        self._state.unpack(tensors, cast(dict[str, Packed], metadata))

    def pack_clients(self) -> Mapping[int, Mapping[str, Weights]]:
        return {}

    def unpack_clients(self, clients: Mapping[int, Mapping[str, Weights]]) -> None:
        """Nothing: a strategy of Flower's knows no client."""

    def _taken(self, record: ArrayRecord) -> Weights:
        """The strategy's result in the model's own types; names and shapes must be the model's."""
        returned = records.tensors(record)
        known = floats(self._weights)
        for n in [*known, *returned]:
            if n not in returned or n not in known or returned[n].shape != known[n].shape:
                what = list(returned[n].shape) if n in returned else "missing"
                want = list(known[n].shape) if n in known else "not of this model"
                raise InputError(f"strategy: it returned {n!r} as {what}; the model's is {want}")
        taken = {n: returned[n].to(t.dtype) for n, t in known.items()}
        for n in taken:
            if n.endswith(".running_var"):  # an adaptive server may step below zero
                taken[n] = taken[n].clamp(min=0)
        return self._weights | taken


class SelectedFlowerStrategy:
    """A class of Flower's interface, and the arguments of its constructor; see ``Selected``."""

    learns_tasks = False
    trains_on_server = False

    def __init__(self, name: str, cls: type[Flower], strategy_args: Mapping[str, Any]) -> None:
        """Check what can be checked before it is constructed.

        Raises:
            InputError: It has a ``start`` of its own, or does not take an argument.

        """
        if cls.start is not Flower.start:
            raise InputError(
                f"strategy: {name} overrides start(); fedadapt calls its configure_ and aggregate_ "
                "hooks and runs the rounds itself"
            )
        accepted = constructor_parameters(cls)
        given = {key.replace("-", "_"): value for key, value in strategy_args.items()}
        for argument in given:
            if accepted is not None and argument not in accepted:
                known = tuple(accepted)
                raise InputError(
                    f"strategy-args: {name} has no argument {argument!r}"
                    f"{nearest(argument, known)}; it has: {', '.join(known)}"
                )
        arguments = checked(cls, name, given)
        # Flower waits for two nodes unless told otherwise; here the sampling says how many.
        least = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
        defaults = {k: v for k, v in least.items() if accepted is None or k in accepted}
        self.name = name
        self._class = cls
        self._arguments = defaults | arguments

    @staticmethod
    def parameters_of(cls: type[Flower]) -> tuple[str, ...] | None:
        """Name the parameters of a class beyond those of Flower's FedAvg; None: anything."""
        accepted = constructor_parameters(cls)
        if accepted is None:
            return None
        shared = constructor_parameters(FedAvg) or {}
        return tuple(name for name in accepted if name not in shared)

    @property
    def settings(self) -> frozenset[str]:
        """Clients train as the run says; batch norm is averaged like everything else."""
        return settings_of(StockClient)

    def on_client(self, run: Run) -> StockClient:
        """Return what answers the strategy's messages on the clients."""
        return StockClient(model=run.model, training=run.training)

    def on_server(self, strategy: object, server: ServerSide) -> FlowerStrategyWithState:
        """Construct the strategy, with nothing of it trained yet."""
        return FlowerStrategyWithState(self.construct(), seed=server.config.seed)

    def try_out(self, clients: int) -> None:
        """Try a strategy of Flower's own out; a stranger's might leave traces elsewhere.

        Raises:
            InputError: It does not work with its arguments and so many clients a round.

        """
        if not self._class.__module__.startswith("flwr."):
            return
        strategy = self.construct()

        def rounds(exchange: MadeUpExchange, weights: Weights) -> Weights:
            driven = FlowerStrategyWithState(strategy, seed=0, patience=4)
            sampled = range(min(clients, TRIED_WITH))
            driven.begin(weights, sampled)
            for number in (1, 2):
                exchange.round = number
                driven.round(cast(Exchange, exchange), sampled)
            return {n: t[0] for n, t in driven.models([0])["base"].items()}

        try_out(self.name, rounds)

    def construct(self) -> Flower:
        """Construct the strategy with the arguments of the run.

        Raises:
            InputError: It refuses them.

        """
        try:
            with _quiet():
                return self._class(**self._arguments)
        except InputError:  # it is a ValueError too, and its message is complete
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"strategy: {self.name}: {error}") from None


@contextmanager
def _sampling_seed(seed: int, round: int) -> Iterator[None]:
    """Flower samples with ``random``: seed it, and put it back."""
    before = random.getstate()
    random.seed(f"{seed}/sampling/{round}")
    try:
        yield
    finally:
        random.setstate(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Flower logs every step of its own; the run has a progress bar."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
