"""The folder of a new run.

It is made without importing torch, so a folder that cannot be used is refused at once.
"""

import os
import re
from pathlib import Path

from fedadapt.config import RunConfig
from fedadapt.errors import InputError


def new_folder(config: RunConfig) -> Path:
    """Make the folder of a new run.

    Raises:
        InputError: it cannot be made or written to, or holds another run.

    """
    name = re.sub(r"[^\w.-]+", "-", f"{config.benchmark}-{config.strategy}")
    if config.out:
        folder = Path(config.out).expanduser()
    else:
        taken = [Path("runs") / f"{name}-{n}" for n in range(1, 10_000)]
        folder = next(f for f in taken if not f.exists())
    if (folder / "checkpoint").exists():
        raise InputError(
            f"out: {folder} holds a run already; name another folder, or go on with it: "
            f"fedadapt simulate --resume {folder}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out: {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise InputError(f"out: {folder} cannot be written to")
    return folder
