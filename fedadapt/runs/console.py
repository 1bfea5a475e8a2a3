"""Where a run that is started from Python tells how far it is."""

import sys

from rich.console import Console

from fedadapt.notebook import in_notebook


def console(*, progress: bool) -> Console | None:
    """Return the terminal, or what stands for it in a notebook; None: nothing is to be shown."""
    if not progress:
        return None
    if in_notebook():  # what is no progress is plain text, on no red ground
        return Console(file=sys.stdout, force_jupyter=False, force_terminal=False, width=100)
    return Console(stderr=True)
