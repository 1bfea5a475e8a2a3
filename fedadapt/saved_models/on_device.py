"""The models in a client's state folder, where runs come and go: the newest are meant."""

import re
from pathlib import Path
from typing import NamedTuple

from fedadapt.errors import InputError


class OwnModels(NamedTuple):
    """Where a client has its models of one run."""

    folder: Path  # it has ``models/``
    client: int  # the number under which it took part


def newest_models(state: Path, client: int | None) -> OwnModels | None:
    """The models of the newest run in a state folder; None where the folder is none.

    Args:
        client: Whose; None: the one client that there is, as on a device.

    Raises:
        InputError: Several clients keep their models there, and none is named.

    """
    having = [
        (max(file.stat().st_mtime_ns for file in files), folder, sorted({*numbers}))
        for folder in state.glob("experiment-*/client-*")
        if (files := list((folder / "models").rglob("*.safetensors")))
        and (numbers := [int(f.stem) for f in files if re.fullmatch(r"\d{1,10}", f.stem)])
    ]
    if client is not None:
        having = [entry for entry in having if client in entry[2]]
    if not having:
        return None
    whose = {folder.name for _, folder, _ in having}
    if client is None and len(whose) > 1:
        raise InputError(
            f"{state}: {len(whose)} clients keep their models there; say whose with the number of "
            "a client, or name the folder of one"
        )
    _, folder, numbers = max(having)
    return OwnModels(folder, client if client is not None else numbers[-1])
