"""What a run shows while it goes on: rounds, clients, loss, time left."""

import math
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from fedadapt.strategies.dua.experts.training import Epoch


class Progress(AbstractContextManager["Progress"]):
    """Two bars: the rounds, and the clients of the round under way. Silent off a terminal."""

    def __init__(self, console: Console | None = None, *, show: bool = True) -> None:
        self._bars = Bars(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not show,
            transient=True,
        )
        self._rounds: TaskID | None = None
        self._clients: TaskID | None = None
        self._expert = 0  # that is being trained

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bars.stop()

    def start(self, finished: int, total: int) -> None:
        self._rounds = self._bars.add_task("rounds", total=total, completed=finished, note="")

    def round(self, number: int, num_clients: int) -> None:
        self.phase(f"round {number}: clients", num_clients)

    def phase(self, name: str, total: int | None) -> None:
        """A stretch of work with its own bar, replacing the one before."""
        if self._clients is not None:
            self._bars.remove_task(self._clients)
        self._clients = self._bars.add_task(name, total=total, note="")

    def learning(self, epoch: Epoch) -> None:
        """One more epoch of the server's own training; how many there will be nobody knows."""
        if epoch.number != self._expert or self._clients is None:
            self._expert = epoch.number
            self.phase(f"expert {epoch.number}: epochs", None)
        assert self._clients is not None
        note = f"{100 * epoch.accuracy:.1f} % on validation"
        self._bars.update(self._clients, advance=1, note=note)

    def advance(self, by: int) -> None:
        if self._clients is not None:
            self._bars.advance(self._clients, by)

    def done(self, number: int, loss: float) -> None:
        if self._rounds is not None:
            note = "" if math.isnan(loss) else f"loss {loss:.4f}"
            self._bars.update(self._rounds, completed=number, note=note)
