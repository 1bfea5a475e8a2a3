"""What a tracker of experiments is: the class to write for another one. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedadapt.parameters import Scalar


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when the run begins or goes on."""

    folder: Path  # of the run; its name is the run's
    settings: Mapping[str, Scalar]  # every setting, by its kebab-case key
    id: str = ""  # what ``begin`` returned when the run began; empty in a new run
    round: int = 0  # the run goes on after this round, whose metrics are told again


class Tracker(ABC):
    """Follows one run. It is made without arguments, and then ``begin`` is called.

    Whatever it raises costs the run a line of warning and the tracker the rest of the run.
    """

    @abstractmethod
    def begin(self, run: TrackedRun) -> str:
        """Start to follow a run, and return the id by which it is found when the run goes on."""

    @abstractmethod
    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a round, which are finite. Rounds come in ascending order."""

    @abstractmethod
    def finish(self, summary: Mapping[str, object], files: Sequence[Path]) -> None:
        """Take what ``summary.json`` holds and the files to attach; the run has ended well."""

    @abstractmethod
    def stop(self, reason: str) -> None:
        """Let go of a run that ended early, and may be gone on with later."""
