"""The interface through which the federated loop reaches clients, on every engine."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple, Protocol

from torch import Tensor

from fedadapt.messages import Answers, Failure, Sent
from fedadapt.records import Confidence, Evaluation, EvaluationFailure
from fedadapt.weights import Weights


class EvaluationRequest(NamedTuple):
    """The models to evaluate, on which clients, and with which adaptations."""

    round: int
    clients: tuple[int, ...]
    models: Mapping[str, Weights]  # what is sent: "base", "personal", each [D, ...]
    adaptations: tuple[str, ...]  # names among the run's
    pooled: Mapping[str, Weights] = MappingProxyType({})  # by adaptation: what its query found
    on_global: bool = False
    task: int = 0
    curves: bool = False  # scores on the adapt images and after each stage as well
    held_out: bool = False  # scores on adapt images that a model was not adapted to as well
    confidence: bool = False  # how sure models are of each test image as well
    collect: tuple[str, ...] = ()  # labels of the models to save: "personal", "base+fine-tune"
    at_once: int = 0  # clients that are computed together at most; 0: as many as usual
    on_client: tuple[str, ...] = ()  # models that a client makes of what it has: nothing is sent

    @property
    def names(self) -> tuple[str, ...]:
        """All models that are tried, each once."""
        return tuple(dict.fromkeys((*self.models, *self.on_client)))


class ModelStack(NamedTuple):
    """Models of some clients, as they were evaluated."""

    clients: Tensor  # [D], int64: whose they are
    weights: Weights  # [D, ...]
    accuracy: Tensor  # [D], float64: on the clients' adapt images
    num_images: Tensor  # [D]: how many images these are


@dataclass(frozen=True, eq=False)
class EvaluationAnswers:
    """The evaluation results of some clients."""

    clients: tuple[int, ...]
    rows: list[Evaluation]
    failures: dict[int, Failure] = field(default_factory=dict)
    bytes_up: int = 0  # of each client
    seconds: float = 0.0  # of each client
    models: dict[str, dict[str, ModelStack]] = field(default_factory=dict)  # model, adaptation
    failed: list[EvaluationFailure] = field(default_factory=list)  # of clients that answered
    confidences: list[Confidence] = field(default_factory=list)


def result_bytes(rows: Sequence[Evaluation], confidences: Sequence[Confidence]) -> int:
    """Payload of evaluation results: six numbers a row, two numbers and a flag an image."""
    images = sum(len(confidence.right) for confidence in confidences)
    return 8 * 6 * len(rows) + 8 * len(confidences) + 17 * images


class ClientPool(Protocol):
    """All clients of a run, numbered by partition.

    Attributes:
        keeps_models: Whether clients keep the models that are to be saved on their own disks,
            instead of sending them with the results of an evaluation.
        evaluates_in_background: Whether answers to ``ask`` may be taken in before those of an
            evaluation that began earlier. It uses the client states of its beginning all the same,
            and clients work on it while the server merges.
        withheld: How many clients do not tell something, by what they do not tell.

    """

    keeps_models: bool
    evaluates_in_background: bool

    @property
    def withheld(self) -> Mapping[str, int]:
        """What the run has to do without, once ``ready`` has returned."""
        ...

    def ready(self) -> Sequence[int]:
        """Wait for the clients, check that they fit the run, return their numbers, ascending."""
        ...

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        """Send ``sent`` and yield the answers in client order; each client appears once.

        Clients may begin when this is called, or when the first answer is asked for.

        Args:
            expected: Names, shapes and types that the answer of one client must have, [...].

        """
        ...

    def evaluate(self, request: EvaluationRequest) -> Iterator[EvaluationAnswers]:
        """Evaluate models on clients; yield the results in client order.

        Clients may begin when this is called, or when the first answer is asked for.
        """
        ...

    def states(self) -> Mapping[int, Mapping[str, Weights]]:
        """Return the client states that live with the server, for the checkpoint."""
        ...

    def restore(self, states: Mapping[int, Mapping[str, Weights]]) -> None:
        """Restore client states that ``states`` returned."""
        ...
