"""One run as its trackers see it: what they are told, and when; they never end it."""

import json
import logging
import math
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from fedadapt.config import RunConfig, adaptations_of
from fedadapt.errors import one_line
from fedadapt.files import write_atomically
from fedadapt.records import CommunicationEntry, Evaluation, RoundLoss
from fedadapt.simulations.results.journal import journal_rows
from fedadapt.simulations.results.parquet import Row
from fedadapt.simulations.tracking.metrics import Metrics, MetricsByRound
from fedadapt.simulations.tracking.registry import find_tracker, trackers_of
from fedadapt.simulations.tracking.tracker import TrackedRun, Tracker

log = logging.getLogger(__name__)

FILE = "trackers.json"  # in the run folder: the id of the run in each tracker
ATTACHED = ("config.toml", "manifest.json", "summary.json", "report.html")
"""Files that trackers get at the end, beside the pictures of the run."""


class Tracking(AbstractContextManager["Tracking"]):
    """The trackers of a run. One that fails is left out from then on; without any it is silent.

    Every row that the run records comes in through ``row``; a round is told when the next one is
    done, because its models are evaluated meanwhile.
    """

    def __init__(self, config: RunConfig | None = None, folder: Path | None = None) -> None:
        self._names = trackers_of(config.track) if config is not None else ()
        self._config = config or RunConfig()
        self._folder = folder or Path()
        self._trackers: dict[str, Tracker] = {}
        self._metrics = MetricsByRound(adaptations_of(self._config.adapt))

    def begin(self, after: int | None = None) -> None:
        """Start the trackers.

        Args:
            after: The run goes on after this round: its trackers continue, and one that is new
                gets the rounds so far. None: it is a new run.

        """
        if not self._names:
            return
        known = self._ids() if after is not None else {}
        ids: dict[str, str] = {}
        for name in self._names:
            tracker = self._made(name)
            if tracker is None:
                continue
            run = TrackedRun(
                self._folder.absolute(),
                self._config.to_mapping(),
                known.get(name, ""),
                after or 0,
            )
            self._trackers[name] = tracker
            begun = self._call(name, tracker.begin, run)
            if begun is not None:
                ids[name] = str(begun)
        # One that failed now is remembered: the run may go on when its server is back.
        write_atomically(self._folder / FILE, json.dumps(known | ids, indent=1).encode())
        if after is not None:
            self._replay(after, known)

    def row(self, row: Row) -> None:
        """Take in a row that the run has recorded."""
        if self._trackers:
            self._metrics.add(row)

    def round_done(self, number: int) -> None:
        """Tell the rounds before ``number``, whose evaluation has ended by now."""
        if self._trackers:
            for of_round in self._complete(before=number):
                self._tell(*of_round)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Tell the last round and the summary, and attach the report and the pictures."""
        if not self._trackers:
            return
        for of_round in self._complete():
            self._tell(*of_round)
        files = [self._folder / name for name in ATTACHED]
        files = [*filter(Path.is_file, files), *sorted(self._folder.glob("*.png"))]
        for name, tracker in list(self._trackers.items()):
            self._call(name, tracker.finish, summary, files)
        self._trackers.clear()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Let go of a run that has not come to ``finish``."""
        reason = one_line(error) or type(error).__name__
        for name, tracker in list(self._trackers.items()):
            self._call(name, tracker.stop, reason)
        self._trackers.clear()

    def _replay(self, after: int, known: Mapping[str, str]) -> None:
        """Take in what was recorded before the run went on; its counts go on from there."""
        kinds: tuple[Any, ...] = (Evaluation, CommunicationEntry, RoundLoss)
        for kind in kinds:
            for row in journal_rows(self._folder, kind):
                self._metrics.add(row)
        for of_round in self._complete(before=after):
            self._tell(*of_round, left_out=known)

    def _complete(self, before: float = math.inf) -> list[tuple[int, Metrics]]:
        """Return the rounds before ``before`` that have not been told.

        Rows that cannot be made sense of end the tracking, and not the run.
        """
        try:
            return list(self._metrics.take(before))
        except Exception as error:
            log.warning("track: %s; the run goes on without trackers", one_line(error))
            self.__exit__(type(error), error, None)
            return []

    def _tell(
        self, number: int, metrics: Mapping[str, float], left_out: Collection[str] = ()
    ) -> None:
        for name, tracker in list(self._trackers.items()):
            if name not in left_out:
                self._call(name, tracker.log, number, dict(metrics))

    def _made(self, name: str) -> Tracker | None:
        made = self._call(name, lambda: find_tracker(name)())
        return made if isinstance(made, Tracker) else None

    def _call(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call a tracker; one that raises is no longer told anything."""
        try:
            return call(*arguments)
        except (Exception, SystemExit) as error:  # of somebody else's code
            words = one_line(error) or "no message"
            log.warning(
                "track: %s: %s: %s; the run goes on without it", name, type(error).__name__, words
            )
            self._trackers.pop(name, None)
            return None

    def _ids(self) -> dict[str, str]:
        try:
            ids = json.loads((self._folder / FILE).read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(k): str(v) for k, v in ids.items()} if isinstance(ids, dict) else {}
