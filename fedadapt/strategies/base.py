"""What every method answers. Strategies are pure: the server's state comes in and goes out.

One exchange is ``send`` (server) -> ``answer`` (devices) -> ``merge`` (server). A round is one or
more exchanges, named by ``actions``; afterwards ``serve`` says which models each device has.
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
Facts = dict[str, object]  # JSON


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """How a device trains in a round."""

    optimizer: Sgd = field(default_factory=lambda: Sgd(0.05, 0.5))
    batch_size: int = 32
    epochs: int = 5

    @property
    def schedule(self) -> Schedule:
        return Schedule(self.batch_size, self.epochs, "train", "train")


class Strategy(ABC, Generic[State]):
    """The interface. A class that can be instantiated is final: compose, do not subclass it."""

    @abstractmethod
    def begin(self, start: Weights, devices: Sequence[int]) -> State:
        """The server's state before the first round.

        Args:
            start: The initial model, [...], no device axis.
            devices: All devices that take part in training.

        """

    def actions(self, state: State, round: int) -> tuple[str, ...]:
        """The exchanges of round 1, 2, ...: Flower message types such as ``query.sparsity``."""
        return ("train",)

    @abstractmethod
    def send(self, state: State, action: str, round: int, devices: Sequence[int]) -> Sent:
        """What goes down to ``devices``, sampled by the server for this round, ascending."""

    @abstractmethod
    def answer(self, action: str, cohort: Cohort, received: Sent) -> Update:
        """What the devices compute. Runs on the device; sees nothing of the server's state."""

    def expected(self, action: str, sent: Weights) -> Weights:
        """Names, shapes and types of the arrays one device must answer with; values unused.

        Args:
            sent: What one device received, [...].

        """
        return sent

    @abstractmethod
    def merge(self, state: State, action: str, round: int, answers: Iterable[Answers]) -> State:
        """Fold the usable answers, streamed in device order, into the next state."""

    def end(self, state: State, round: int) -> State:
        """The state when all exchanges of a round are done."""
        return state

    @abstractmethod
    def serve(self, state: State, devices: Sequence[int]) -> Mapping[str, Weights]:
        """The models of each of ``devices``: ``base`` for all, ``personal`` where one is made.

        Each [D, ...]; a model that is the same for all is an expanded view (``weights.repeat``).
        """

    def served(
        self, state: State, devices: Sequence[int]
    ) -> Iterator[tuple[int, Mapping[str, Weights]]]:
        """``serve`` for each task that devices are tried on; without tasks, once as task 0."""
        yield 0, self.serve(state, devices)

    def receive(self, cohort: Cohort, weights: Weights, model: str = "base") -> Weights:
        """What a device makes of a model from the server before it uses it. Runs on the device.

        Args:
            model: ``base`` or ``personal``.

        """
        return weights

    def faults(self, action: str, update: Update) -> Mapping[int, str]:
        """Row -> what is wrong with that device's answer, beyond what is checked of all answers.

        Names, shapes, types and numbers that are not finite have been refused before.
        """
        return {}

    def as_flower(
        self, *, fraction: float = 1.0, seed: int = 1, min_nodes: int = 1
    ) -> "FlowerStrategy":
        """The strategy as a ``flwr.serverapp.strategy.Strategy``, for anybody's ServerApp."""
        from fedadapt.flower.ours_as_flower import FlowerStrategy

        return FlowerStrategy(self, fraction=fraction, seed=seed, min_nodes=min_nodes)  # type: ignore[arg-type]

    def describe(self, state: State) -> dict[str, Facts]:
        """What people want to know of the state: each entry becomes ``<name>.json`` of the run."""
        return {}

    @abstractmethod
    def pack(self, state: State) -> tuple[dict[str, Tensor], Facts]:
        """The state as named tensors and JSON, for a checkpoint."""

    @abstractmethod
    def unpack(self, tensors: dict[str, Tensor], facts: Facts) -> State:
        """The inverse of ``pack``."""
