"""What every method answers. Strategies are pure: the server's state comes in and goes out.

One exchange is ``send`` (server) -> ``answer`` (clients) -> ``merge`` (server). A round is one or
more exchanges, named by ``actions``; afterwards ``models`` says which models each client has.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import Tensor

from fedadapt.client.cohort import Cohort, Schedule
from fedadapt.client.fit import Sgd
from fedadapt.messages import Answers, Sent, Update
from fedadapt.weights import Weights

if TYPE_CHECKING:
    from fedadapt.flower.ours_as_flower import FlowerStrategy

State = TypeVar("State")
Metadata = dict[str, object]  # JSON


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """How a client trains in a round."""

    optimizer: Sgd = field(default_factory=lambda: Sgd(0.05, 0.5))
    batch_size: int = 32
    epochs: int = 5

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.batch_size, self.epochs, "train", "train")


class Strategy(ABC, Generic[State]):
    """The interface. A class that can be instantiated is final: compose, do not subclass it."""

    @abstractmethod
    def begin(self, start: Weights, clients: Sequence[int]) -> State:
        """The server's state before the first round.

        Args:
            start: The initial model, [...], no client axis.
            clients: All clients that take part in training.

        """

    def actions(self, state: State, round: int) -> tuple[str, ...]:
        """The exchanges of round 1, 2, ...: Flower message types such as ``query.sparsity``."""
        return ("train",)

    @abstractmethod
    def send(self, state: State, action: str, round: int, clients: Sequence[int]) -> Sent:
        """What goes down to ``clients``, sampled by the server for this round, ascending."""

    @abstractmethod
    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        """What the clients compute. Runs on the client; sees nothing of the server's state."""

    def expected(self, action: str, sent: Weights) -> Weights:
        """Names, shapes and types of the arrays one client must answer with; values unused.

        Args:
            sent: What one client received, [...].

        """
        return sent

    @abstractmethod
    def merge(self, state: State, action: str, round: int, answers: Iterable[Answers]) -> State:
        """Fold the usable answers, streamed in client order, into the next state."""

    def end(self, state: State, round: int) -> State:
        """The state when all exchanges of a round are done."""
        return state

    @abstractmethod
    def models(self, state: State, clients: Sequence[int]) -> Mapping[str, Weights]:
        """The models of each of ``clients``: ``base`` for all, ``personal`` where one is made.

        Each [D, ...]; a model that is the same for all is an expanded view (``weights.repeat``).
        """

    def models_by_task(
        self, state: State, clients: Sequence[int]
    ) -> Iterator[tuple[int, Mapping[str, Weights]]]:
        """``models`` for each task that clients are tried on; without tasks, once as task 0."""
        yield 0, self.models(state, clients)

    def on_client(self) -> tuple[str, ...]:
        """Names of models that clients make of the base and their own state; nothing is sent."""
        return ()

    def localise(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        """What a client makes of a model from the server before it uses it. Runs on the client.

        Args:
            model: ``base`` or ``personal``.

        """
        return weights

    def validation_errors(self, action: str, update: Update) -> Mapping[int, str]:
        """Row -> what is wrong with that client's answer, beyond what is checked of all answers.

        Names, shapes, types and numbers that are not finite have been refused before.
        """
        return {}

    def as_flower(
        self, *, fraction: float = 1.0, seed: int = 1, min_nodes: int = 1
    ) -> "FlowerStrategy":
        """The strategy as a ``flwr.serverapp.strategy.Strategy``, for anybody's ServerApp."""
        from fedadapt.flower.ours_as_flower import FlowerStrategy

        return FlowerStrategy(self, fraction=fraction, seed=seed, min_nodes=min_nodes)  # type: ignore[arg-type]

    def describe(self, state: State) -> dict[str, Metadata]:
        """What people want to know of the state: each entry becomes ``<name>.json`` of the run."""
        return {}

    @abstractmethod
    def pack(self, state: State) -> tuple[dict[str, Tensor], Metadata]:
        """The state as named tensors and JSON, for a checkpoint."""

    @abstractmethod
    def unpack(self, tensors: dict[str, Tensor], metadata: Metadata) -> State:
        """The inverse of ``pack``."""
