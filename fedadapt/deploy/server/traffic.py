"""What the guard has seen of each client: when last, and how many bytes in either direction."""

import json
import time
from pathlib import Path
from typing import NamedTuple

from fedadapt.deploy.folder import read_json
from fedadapt.files import write_atomically

SILENT_AFTER = 15.0
"""Seconds after which a client counts as away: an idle one asks for messages every three."""


class Seen(NamedTuple):
    """Of one client, since the deployment was made; bytes are those of the bodies of requests."""

    last: float = 0.0  # seconds since 1970
    requests: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    refused: int = 0  # requests that the guard or the SuperLink did not accept

    @property
    def connected(self) -> bool:
        return time.time() - self.last < SILENT_AFTER


class Traffic:
    """Counts by client, kept in a file so that a restart of the guard forgets nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = read_traffic(path)
        self._saved = dict(self._seen)

    def add(self, name: str, up: int, down: int, *, refused: bool = False) -> None:
        """Count one request."""
        old = self._seen.get(name, Seen())
        self._seen[name] = Seen(
            time.time(),
            old.requests + 1,
            old.bytes_up + up,
            old.bytes_down + down,
            old.refused + refused,
        )

    def save(self) -> None:
        """Write the counts, if there is anything new."""
        if self._seen != self._saved:
            content = json.dumps({name: seen._asdict() for name, seen in self._seen.items()})
            write_atomically(self._path, content.encode(), mode=0o600)
            self._saved = dict(self._seen)


def read_traffic(path: Path) -> dict[str, Seen]:
    """Client name -> what was seen of it; {} where nothing was."""
    seen = {}
    for name, values in read_json(path).items():
        if isinstance(values, dict):
            numbers = {k: v for k, v in values.items() if type(v) in (int, float)}
            seen[name] = Seen(**{k: numbers[k] for k in Seen._fields if k in numbers})
    return seen
