"""What an attack shows while it goes on. Silent off a terminal."""

from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress(AbstractContextManager["Progress"]):
    """A bar of steps for the layer and property under attack."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps, left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bars.add_task("", total=None)

    def __enter__(self) -> "Progress":
        self._bars.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bars.stop()

    def begin(self, name: str, steps: int) -> None:
        """The next layer and property."""
        self._bars.reset(self._task, total=steps, description=name)

    def advance(self, steps: int) -> None:
        self._bars.advance(self._task, steps)
