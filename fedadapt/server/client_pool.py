"""How the server reaches clients. The federated loop knows only this."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

from torch import Tensor

from fedadapt.messages import Answers, Failure, Sent
from fedadapt.records import Evaluation
from fedadapt.weights import Weights


class EvaluationRequest(NamedTuple):
    """Which models to try on which clients, after which adaptations."""

    round: int
    clients: tuple[int, ...]
    models: Mapping[str, Weights]  # "base", "personal": each [D, ...]
    adaptations: tuple[str, ...]  # names among the run's
    pooled: Mapping[str, Weights] = MappingProxyType({})  # by adaptation: what its query found
    on_global: bool = False
    task: int = 0
    curves: bool = False  # scores on the adapt images and after each stage as well
    collect: tuple[str, ...] = ()  # labels of the models to save: "personal", "base+fine-tune"
    at_once: int = 0  # clients that are computed together at most; 0: as many as usual


class ModelStack(NamedTuple):
    """Models of some clients, as they were evaluated."""

    weights: Weights  # [D, ...]
    accuracy: Tensor  # [D], float64: on the clients' adapt images
    num_images: Tensor  # [D]: how many images these are


@dataclass(frozen=True, eq=False)
class EvaluationAnswers:
    """Some clients' results."""

    clients: tuple[int, ...]
    rows: list[Evaluation]
    failures: dict[int, Failure] = field(default_factory=dict)
    bytes_up: int = 0  # of each client
    seconds: float = 0.0  # of each client
    models: dict[str, dict[str, ModelStack]] = field(default_factory=dict)  # model, adaptation


class ClientPool(Protocol):
    """A way to reach clients, which are numbered by partition.

    Attributes:
        keeps_models: Clients keep the models that are to be saved on their own disks, and do not
            send them with the results of an evaluation.

    """

    keeps_models: bool

    def ready(self) -> Sequence[int]:
        """Wait for the clients, check that they fit the run; their numbers, ascending."""
        ...

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        """Send ``sent``, yield what comes back, in client order; each client appears once.

        Clients may begin when this is called, or when the first answer is asked for.

        Args:
            expected: One client's answer, [...]: names, shapes and types to insist on.

        """
        ...

    def evaluate(self, request: EvaluationRequest) -> Iterator[EvaluationAnswers]:
        """Score models on clients; yields in client order.

        Clients may begin when this is called, or when the first answer is asked for.
        """
        ...

    def states(self) -> Mapping[int, Mapping[str, Weights]]:
        """What clients keep between rounds, where it lives with the server; for the checkpoint."""
        ...

    def restore(self, states: Mapping[int, Mapping[str, Weights]]) -> None:
        """The inverse of ``states``."""
        ...
