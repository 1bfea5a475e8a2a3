"""The pictures with which a run has begun: those that come later take part in the next one.

A client whose data grew during a run would have other numbers of examples than it said, and tests
of other pictures from round to round.
"""

import json
from collections.abc import Collection
from pathlib import Path

from fedadapt.errors import InputError
from fedadapt.files import write_atomically

FILE = "pictures.json"


def pictures_of_run(folder: Path) -> frozenset[str] | None:
    """Digests of the pictures of a run, by the client's folder for it; None: it has not begun.

    Raises:
        InputError: The file is damaged.

    """
    try:
        digests = json.loads((folder / FILE).read_text("utf-8"))
        if not isinstance(digests, list) or not all(isinstance(word, str) for word in digests):
            raise ValueError("no list of digests")
        return frozenset(digests)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder / FILE}: damaged ({error}); remove it, and the run goes on with all pictures"
        ) from None


def begin_run(folder: Path, digests: Collection[str]) -> None:
    """Remember the pictures of a run; the folder is there."""
    write_atomically(folder / FILE, json.dumps(sorted(digests)).encode(), mode=0o600)
