"""How the server reaches devices. The federated loop knows only this."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from fedadapt.messages import Answers, Failure, Sent
from fedadapt.records import Evaluation
from fedadapt.weights import Weights


class EvaluationRequest(NamedTuple):
    """Which models to try on which devices, after which adaptations."""

    round: int
    devices: tuple[int, ...]
    models: Mapping[str, Weights]  # "base", "personal": each [D, ...]
    adaptations: tuple[str, ...]  # names among the run's
    fisher_of_all: Weights | None = None  # [...], for EWC
    on_global: bool = False
    task: int = 0
    curves: bool = False  # scores on the adapt images and after each stage as well


@dataclass(frozen=True, eq=False)
class EvaluationAnswers:
    """Some devices' results."""

    devices: tuple[int, ...]
    rows: list[Evaluation]
    failures: dict[int, Failure] = field(default_factory=dict)
    bytes_up: int = 0  # of each device
    seconds: float = 0.0  # of each device


class Fleet(Protocol):
    """A way to reach devices, which are numbered by partition."""

    def ready(self) -> Sequence[int]:
        """Wait for the devices, check that they fit the run; their numbers, ascending."""
        ...

    def ask(self, action: str, round: int, sent: Sent, expected: Weights) -> Iterator[Answers]:
        """Send ``sent``, yield what comes back, in device order; each device appears once.

        Devices may begin when this is called, or when the first answer is asked for.

        Args:
            expected: One device's answer, [...]: names, shapes and types to insist on.

        """
        ...

    def evaluate(self, request: EvaluationRequest) -> Iterator[EvaluationAnswers]:
        """Score models on devices; yields in device order.

        Devices may begin when this is called, or when the first answer is asked for.
        """
        ...

    def kept(self) -> Mapping[int, Mapping[str, Weights]]:
        """What devices keep between rounds, where it lives with the server; for the checkpoint."""
        ...

    def restore(self, kept: Mapping[int, Mapping[str, Weights]]) -> None:
        """The inverse of ``kept``."""
        ...
