"""What a run shows while it goes on: rounds, clients, loss, time left."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from fedadapt.notebook import NotebookLine, in_notebook
from fedadapt.simulations.estimate import Estimate, duration
from fedadapt.simulations.studies.runs_left import RunsLeft
from fedadapt.simulations.time_left import TimeLeft
from fedadapt.strategies.dua.experts.training import Epoch

FIRST_LINE = 5.0  # seconds until the first line, off a terminal
EVERY = 30.0  # seconds from line to line
IN_PLACE = 0.3  # ... in a notebook, where a line replaces the one before


class Progress(AbstractContextManager["Progress"]):
    """Two bars on a terminal: the rounds, and the clients of what is under way.

    Off a terminal (a file, a batch system, a notebook) it is a line every so often; silent without
    a console. A run that is one of a study has a third bar above: the runs, and how long all take.
    """

    def __init__(
        self,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        runs: RunsLeft | None = None,
    ) -> None:
        self._console = console
        self._runs = runs if runs is not None and runs.count > 1 else None
        self._clock = clock
        self._has_bars = console is not None and console.is_terminal
        self._below_cell = NotebookLine() if console is not None and in_notebook() else None
        self._left = TimeLeft(0, clock)
        self._bars = Bars(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            _LeftColumn({"rounds": lambda: str(self._left), "runs": self._left_of_all}),
            console=console,
            disable=not self._has_bars,
            transient=True,
        )
        self._rounds: TaskID | None = None
        self._clients: TaskID | None = None
        self._expert = 0  # that is being trained
        self._began = clock()
        self._next_line = self._began + (IN_PLACE if self._below_cell else FIRST_LINE)
        self._phase, self._of_phase, self._in_phase = "", 0, 0
        self._done, self._total = 0, 0
        self._note = ""

    def __enter__(self) -> "Progress":
        if self._runs is not None:
            self._add_runs(self._runs)
        self._bars.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bars.stop()
        if self._below_cell is not None and self._total:
            passed = duration(self._clock() - self._began)
            line = f"{self._done} of {self._total} rounds, {passed}"
            self._below_cell.show(line, self._done, self._total)

    def expect(self, estimate: Estimate) -> None:
        """Take an estimate of what is left, to tell the time left from the first second."""
        self._left.expect(estimate)

    def start(self, finished: int, total: int) -> None:
        estimate = self._left.estimate
        self._left = TimeLeft(total - finished, self._clock)
        if estimate is not None:
            self._left.expect(estimate)
        self._done, self._total = finished, total
        self._rounds = self._bars.add_task("rounds", total=total, completed=finished, note="")

    def round(self, number: int, num_clients: int) -> None:
        self.phase(f"round {number}: clients", num_clients)

    def phase(self, name: str, total: int | None) -> None:
        """A stretch of work with its own bar, replacing the one before."""
        self._phase, self._of_phase, self._in_phase = name, total or 0, 0
        if self._clients is not None:
            self._bars.remove_task(self._clients)
        self._clients = self._bars.add_task(name, total=total, note="")

    def learning(self, epoch: Epoch) -> None:
        """One more epoch of the server's own training; how many there will be nobody knows."""
        if epoch.number != self._expert or self._clients is None:
            self._expert = epoch.number
            self.phase(f"expert {epoch.number}: epochs", None)
        assert self._clients is not None
        self._note = f"{100 * epoch.accuracy:.1f} % on validation"
        self._in_phase += 1
        self._bars.update(self._clients, advance=1, note=self._note)
        self._say()

    def advance(self, by: int) -> None:
        self._in_phase += by
        if self._clients is not None:
            self._bars.advance(self._clients, by)
        self._say()

    def done(self, number: int, loss: float) -> None:
        self._left.round_done()
        self._done = number
        self._note = "" if math.isnan(loss) else f"loss {loss:.4f}"
        if self._rounds is not None:
            self._bars.update(self._rounds, completed=number, note=self._note)
        self._say()

    def _add_runs(self, runs: RunsLeft) -> None:
        number = self._bars.add_task("runs", total=runs.count, completed=runs.number - 1, note="")
        [task] = [task for task in self._bars.tasks if task.id == number]
        assert task.start_time is not None
        task.start_time -= runs.passed  # the study began before this run

    def _left_of_all(self) -> str:
        """Say how long this run and those after it take; nothing while nobody knows."""
        seconds = self._left.seconds
        if self._runs is None or math.isnan(seconds):
            return ""
        after = self._runs.after(self._clock() - self._began + seconds)
        return f"{duration(seconds + after)} left"

    def _words_of_all(self) -> str:
        words = self._left_of_all()
        return f"{words} of all runs" if words else ""

    def _say(self) -> None:
        """Off a terminal, print where the run is, if the last line is old enough."""
        now = self._clock()
        if self._console is None or self._has_bars or now < self._next_line:
            return
        self._next_line = now + (IN_PLACE if self._below_cell else EVERY)
        under_way = self._phase
        if self._in_phase:
            of = f" of {self._of_phase}" if self._of_phase else ""
            under_way = f"{self._phase} {self._in_phase}{of}"
        facts = (
            f"{self._done} of {self._total} rounds" if self._total else "",
            under_way if self._in_phase < self._of_phase or not self._of_phase else "",
            self._note,
            f"{duration(now - self._began)} passed",
            str(self._left),
            self._words_of_all(),
        )
        line = ", ".join(fact for fact in facts if fact)
        if self._below_cell is not None:
            self._below_cell.show(line, self._done, self._total)
        else:
            self._console.print(line, highlight=False, soft_wrap=True)


class _LeftColumn(ProgressColumn):
    """The time left beside the rounds of a run and the runs of a study, and beside nothing else."""

    def __init__(self, left: Mapping[str, Callable[[], str]]) -> None:
        super().__init__()
        self._left = left

    def render(self, task: Task) -> Text:
        return Text(self._left[task.description]() if task.description in self._left else "")
