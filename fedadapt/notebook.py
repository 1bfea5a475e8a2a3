"""Progress in a notebook: one line that is replaced, without any widget library."""

import html
import sys
from typing import Any


def in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this, which shows what ``IPython.display`` is given."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookLine:
    """A bar and a line below the cell that runs; ``show`` replaces what it showed before."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, text: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` rounds are done, and a line about them."""
        from IPython.display import display

        bar = f'<progress max="{total}" value="{done}"></progress> ' if total else ""
        bundle = {"text/plain": text, "text/html": f"{bar}{html.escape(text)}"}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)
