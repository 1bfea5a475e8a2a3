"""The interface of a strategy, and what of a run a strategy is made from.

Strategies are pure: the server's state comes in and goes out. One exchange is ``send`` (server) ->
``answer`` (clients) -> ``merge`` (server). A round is one or more exchanges, named by ``actions``;
afterwards ``models`` says which models each client has.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from fedadapt.client.augmentation import Augmentation
from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.step_rules import Optimizer, Sgd
from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import ServerImages
from fedadapt.errors import InputError
from fedadapt.lr_schedule import CONSTANT, LrSchedule
from fedadapt.messages import Answers, Sent, Update
from fedadapt.parameters import check_parameters
from fedadapt.weights import Weights

State = TypeVar("State")
AStrategy = TypeVar("AStrategy", bound="ClientSide")
Metadata = dict[str, object]  # JSON


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """How a client trains in a round."""

    optimizer: Optimizer = field(default_factory=lambda: Sgd(0.05, 0.5))
    batch_size: int = 32
    epochs: int = 5
    lr_schedule: LrSchedule = CONSTANT
    rounds: int = 1  # of the run, over which the learning rate changes
    augmentation: Augmentation | None = None

    @property
    def schedule(self) -> Schedule:
        return Schedule(
            self.batch_size, self.epochs, "train", "train", augmentation=self.augmentation
        )

    def after(self, done: float, rounds: int | None = None) -> "LocalTraining":
        """Return the training of the round that follows ``done`` of ``rounds`` rounds."""
        factor = self.lr_schedule.at(done, self.rounds if rounds is None else rounds)
        if factor == 1:
            return self
        rate = self.optimizer.learning_rate * factor
        return replace(self, optimizer=replace(self.optimizer, learning_rate=rate))


def made_from(*settings: str, default: Any = MISSING) -> Any:
    """Make a field of ``Run`` and name the settings, in kebab-case, that it is made from."""
    return field(default=default, metadata={"settings": frozenset(settings)})


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What a strategy can be made from beside its own parameters.

    A field that a strategy declares with ``from_run()`` is filled with the value of the same name
    here. A setting that no such field is made from has no effect on the strategy, and giving it is
    an error.
    """

    model: nn.Module = made_from()  # the architecture with its initial weights
    image_shape: tuple[int, ...] = made_from()  # of a network input, (C, H, W)
    training: LocalTraining = made_from(
        *("optimizer", "lr", "lr-schedule", "momentum", "weight-decay"),
        *("batch-size", "local-epochs", "augmentation"),
    )
    batch_norm: str = made_from("batch-norm")
    rounds: int = made_from()
    seed: int = made_from()
    noise_seed: int | None = made_from()  # repeats a simulation's noise; None: true entropy
    newcomers: tuple[int, ...] = made_from()  # clients that never train, ascending
    domains: tuple[str, ...] = made_from(default=())  # that a client can name; see ``Benchmark``


SETTINGS: dict[str, frozenset[str]] = {f.name: f.metadata["settings"] for f in fields(Run)}
"""Field of ``Run`` -> the settings it is made from."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ServerSide:
    """What a strategy can use on the server before its first round; see ``Strategy.prepare``."""

    config: RunConfig
    tasks: Any  # ``datasets.task_incremental.benchmark.TaskBenchmark``; None where there are none
    folder: Path  # the run's, for what is too large for memory
    compute: torch.device
    images: ServerImages | None = None  # for training on the server; None where it has none
    scaling: Callable[[Tensor], Tensor] | None = None  # of them, to a network's input
    progress: Callable[[Any], None] | None = None


@dataclass(frozen=True, kw_only=True)
class ClientSide(ABC):
    """What a client does in a method: all that a worker or a ClientApp needs of it."""

    made_on_client: ClassVar[tuple[str, ...]] = ()
    """Models that each client makes of its own state and of the base model, or of what the server
    sends under their names; see ``localise``. The server does not have them."""

    query_types: ClassVar[tuple[str, ...]] = ()
    """The queries that are declared: message types beside ``train``, ``query.`` and a Python
    identifier. Clients answer these, and refuse every other query; nothing has to be registered."""

    ignores: ClassVar[frozenset[str]] = frozenset()
    """Settings without effect on the method, of those that its fields are made from: ``momentum``
    where ``training`` is made from it and every step is one of the method's own. Or of those that
    every method with sampled clients has: ``max-update-norm`` where a client does not start from
    what it received."""

    client_keeps: ClassVar[str] = ""
    """In words, for the lists: what a client keeps beside the tensors that stay on it."""

    client_gets: ClassVar[str] = ""
    """In words, for the lists: what it receives beside what goes down in the first round."""

    client_reports: ClassVar[str] = ""
    """In words, for the lists: what it sends beside the tensors that it sends back."""

    compares_layers: ClassVar[bool] = False
    """Whether clients are compared by a layer's activations, so that a report can compare layers:
    fields ``layer``, ``q``, ``epsilon``, ``dp_epsilon`` and the property ``channels`` of PFA."""

    metrics: ClassVar[tuple[str, ...]] = ("loss",)
    """Names of the metrics that answers may have beside the number of examples."""

    leaves: ClassVar[Mapping[str, str]] = {}
    """By message type in a few words what an answer holds, for the owner of a client; see
    ``told_of``. ``expected`` and ``expected_report`` say the same in names, shapes and types, and
    on a client nothing else leaves."""

    @abstractmethod
    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        """Compute the clients' answers. Runs on the client; sees nothing of the server's state."""

    def expected(self, action: str, sent: Weights) -> Weights:
        """Return names, shapes and types of the arrays one client must answer with.

        Args:
            sent: What one client received, [...]. Values are not looked at.

        """
        return sent

    def expected_report(self, action: str, sent: Weights) -> Weights:
        """Return names, shapes and types of the report beside the arrays, [...]; {}: there is none.

        Args:
            sent: What one client received, [...]. Values are not looked at.

        """
        return {}

    @classmethod
    def told_of(cls) -> dict[str, str]:
        """Message type -> what its answers hold, in words; a class adds to those of its parents."""
        told: dict[str, str] = {}
        for parent in reversed(cls.__mro__):
            told |= vars(parent).get("leaves", {})
        return {"train": told.get("train", "what it declares"), **told}

    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        """Make a model from the server the client's own before it is used. Runs on the client.

        Args:
            weights: The model as it came, [D, ...]; for a model that is ``made_on_client``, what
                ``models`` has under its name, else the base model.
            model: ``base`` or ``personal``.

        """
        return weights


@dataclass(frozen=True, kw_only=True)
class Strategy(ClientSide, Generic[State]):
    """A federated method: both of its sides.

    A subclass is a frozen dataclass. Its parameters are fields made with ``param``, what it takes
    from the run are fields made with ``from_run``. A class that can be instantiated is final:
    compose it, do not subclass it.
    """

    learns_tasks: ClassVar[bool] = False  # for task-incremental benchmarks, and only for them
    samples_clients: ClassVar[bool] = True  # in a round; or all are asked, whatever ``fraction`` is
    trains_on_server: ClassVar[bool] = (
        False  # on images of its own, which it then cannot do without
    )

    # In words, for the lists, where ``facts`` cannot tell it from the class:
    personal_is: ClassVar[str] = ""  # where a client's personal model is
    unseen_get: ClassVar[str] = ""  # what is served to clients that never trained
    batch_norm_is: ClassVar[str] = ""  # what becomes of batch norm

    def __post_init__(self) -> None:
        """Check the parameters; a subclass that checks more calls this first."""
        check_parameters(self)

    @classmethod
    def check(cls, arguments: Mapping[str, Any], config: RunConfig) -> None:
        """Refuse a combination of arguments and settings before data and network are loaded.

        Args:
            arguments: The parameters that were given, each in its range.
            config: The run's settings.

        Raises:
            InputError: One line that says what does not go together.

        """

    def prepare(self, server: ServerSide) -> Self:
        """Return the strategy as the server runs it, after what the server does beforehand."""
        return self

    @abstractmethod
    def begin(self, start: Weights, clients: Sequence[int]) -> State:
        """Return the server's state before the first round.

        Args:
            start: The initial model, [...], no client axis.
            clients: All clients that take part in training.

        """

    def actions(self, state: State, round: int) -> tuple[str, ...]:
        """Name the exchanges of round 1, 2, ... in their order.

        Each is a Flower message type: ``train``, or one of ``query_types``.
        """
        return ("train",)

    @abstractmethod
    def send(self, state: State, action: str, round: int, clients: Sequence[int]) -> Sent:
        """Return what goes down to ``clients``, sampled by the server for this round, ascending."""

    def staying(self) -> Collection[str]:
        """Name the tensors of the network that are each client's own and never leave it."""
        return ()

    def travelling(self, start: Weights) -> tuple[Collection[str], Collection[str]]:
        """Name the tensors that go down to a client and up from it in the first round's training.

        None where clients train nothing.

        Args:
            start: The initial model, [...].

        """
        state = self.begin(start, (0,))
        if "train" not in self.actions(state, 1):
            return (), ()
        sent = self.send(state, "train", 1, (0,)).weights
        return sent, self.expected("train", {n: t[0] for n, t in sent.items()})

    @abstractmethod
    def merge(self, state: State, action: str, round: int, answers: Iterable[Answers]) -> State:
        """Fold the usable answers, streamed in the order of clients, into the next state."""

    def end(self, state: State, round: int) -> State:
        """Return the state when all exchanges of a round are done."""
        return state

    @abstractmethod
    def models(self, state: State, clients: Sequence[int]) -> Mapping[str, Weights]:
        """Return the models of ``clients``: ``base`` for all, ``personal`` if the server makes one.

        Each is [D, ...]; a model that is the same for all is an expanded view (``weights.repeat``).
        Of a model that is ``made_on_client`` it is what they make it of, beside their state, where
        that is not the base model.
        """

    def models_by_task(
        self, state: State, clients: Sequence[int]
    ) -> Iterator[tuple[int, Mapping[str, Weights]]]:
        """Yield ``models`` for each task that clients are evaluated on; else once, as task 0."""
        yield 0, self.models(state, clients)

    def validation_errors(self, action: str, update: Update) -> Mapping[int, str]:
        """Name what is wrong with answers, by row, beyond what is checked of every method.

        Names, shapes, types and numbers that are not finite have been refused before.
        """
        return {}

    def describe(self, state: State) -> dict[str, Metadata]:
        """Describe the state for people: each entry becomes ``<name>.json`` of the run folder."""
        return {}

    @abstractmethod
    def pack(self, state: State) -> tuple[dict[str, Tensor], Metadata]:
        """Return the state as named tensors and JSON, for a checkpoint."""

    @abstractmethod
    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> State:
        """Return the state that ``pack`` packed."""

    def pack_clients(self, state: State) -> Mapping[int, Mapping[str, Weights]]:
        """Return what of the state is a client's, where that may be too large for ``pack``.

        By client and part, as ``StateStorage`` makes it: a checkpoint writes only what has changed,
        a client at a time.
        """
        return {}

    def unpack_clients(self, state: State, clients: Mapping[int, Mapping[str, Weights]]) -> State:
        """Return the state that ``unpack`` returned, with what ``pack_clients`` packed."""
        return state


def at_round(strategy: AStrategy, round: int) -> AStrategy:
    """Return the strategy as clients run it in a round: with that round's learning rate.

    An evaluation after a round has the rate of that round, and before the first that of the first.
    """
    training = getattr(strategy, "training", None)
    if not isinstance(training, LocalTraining):
        return strategy
    current = training.after(max(0, round - 1))
    if current is training:
        return strategy
    changed: AStrategy = replace(strategy, training=current)  # type: ignore[call-arg]
    return changed


def require_batch_norm(model: nn.Module, name: str) -> None:
    """Refuse a network without batch normalisation where a strategy is about nothing else.

    Raises:
        InputError: The network has no batch-norm layer.

    """
    from fedadapt.models.norms import has_batch_norm

    if not has_batch_norm(model):
        raise InputError(
            f"strategy: {name} needs a network with batch normalisation, and this one has none"
        )
