"""The ledger of a client: what left it, message by message, written before it is sent.

One JSON line an entry. Each line holds the SHA-256 of the line before and one of itself, so that a
line that was changed, taken out or put in is noticed. A kill between writing and sending leaves an
entry without a confirmation: that message may have left or not.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from fedadapt.errors import InputError

FOLDER = "ledger"
BEGINNING = "0" * 64
PATIENCE = 60.0  # seconds to wait for another process that is writing
LONGEST = 80  # characters of a name or word in the ledger


@dataclass(frozen=True, kw_only=True)
class Part:
    """One array, number or list of a message."""

    record: str  # arrays, metrics, report, rows, ...
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One message, as it was about to be sent."""

    number: int
    time: str  # ISO 8601, UTC
    run: str
    round: int
    type: str
    outcome: str  # answer, or why there is none
    parts: tuple[Part, ...]
    bytes: int  # of all parts
    epsilon: float  # that this message has cost; 0: nothing, or a message without noise
    withheld: tuple[str, ...] = ()  # what the answer had and the message has not
    confirmed: bool = False


class Ledger:
    """The ledger of one client: ``<state folder>/ledger/<client>.jsonl``, readable by its owner."""

    def __init__(self, folder: Path, client: str) -> None:
        """Find the ledger; nothing is written yet."""
        self.path = folder / FOLDER / f"{quote(client, safe='')}.jsonl"

    def write(
        self,
        *,
        run: str,
        round: int,
        type: str,
        outcome: str,
        parts: Sequence[Part],
        epsilon: float = 0.0,
        withheld: Sequence[str] = (),
    ) -> int:
        """Append an entry; it is on the disk when this returns. Returns its number.

        Raises:
            OSError: It cannot be written. The message must not be sent.
            InputError: The last line is damaged. The message must not be sent.

        """
        content = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "run": plain(run),
            "round": round,
            "type": plain(type),
            "outcome": plain(outcome),
            "parts": [asdict(part) | {"name": plain(part.name)} for part in parts],
            "bytes": sum(part.bytes for part in parts),
            "epsilon": epsilon,
            "withheld": [plain(name) for name in withheld],
        }
        return self._append(content)

    def confirm(self, number: int) -> None:
        """Note that the message of an entry was handed over."""
        self._append({"confirms": number})

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first.

        Raises:
            InputError: A line is not what was written, or one is missing; it says which.

        """
        entries: dict[int, dict[str, Any]] = {}
        try:
            for number, line in self._checked_lines():
                if "confirms" in line:
                    if line["confirms"] in entries:
                        entries[line["confirms"]]["confirmed"] = True
                else:
                    entries[number] = line
            return [
                Entry(
                    number=number,
                    parts=tuple(
                        Part(**{**part, "shape": tuple(part["shape"])}) for part in line["parts"]
                    ),
                    withheld=tuple(line["withheld"]),
                    confirmed=line.get("confirmed", False),
                    **{
                        key: line[key]
                        for key in ("time", "run", "round", "type", "outcome", "bytes", "epsilon")
                    },
                )
                for number, line in entries.items()
            ]
        except (OSError, KeyError, TypeError) as error:
            raise InputError(f"{self.path}: {error}") from None

    def _checked_lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        previous = BEGINNING
        with self.path.open("rb") as file:
            for at, raw in enumerate(file, start=1):
                line = _parsed(raw)
                if line is None or line["previous"] != previous or line["number"] != at:
                    raise InputError(
                        f"{self.path}: line {at} is not what was written, or a line before it is "
                        "missing"
                    )
                previous = line["hash"]
                yield at, line

    def _append(self, content: dict[str, Any]) -> int:
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock", timeout=PATIENCE, mode=0o600):
            last = self._last()
            number = 1 if last is None else int(last["number"]) + 1
            previous = BEGINNING if last is None else last["hash"]
            line = _signed({"number": number, "previous": previous, **content})
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            file = os.open(self.path, flags, 0o600)
            try:
                size = os.fstat(file).st_size
                data = line.encode()
                try:
                    written = os.write(file, data)
                    if written < len(data):
                        raise OSError(f"only {written} of {len(data)} bytes could be written")
                    os.fsync(file)
                except OSError:
                    os.ftruncate(file, size)  # half a line would break the chain
                    raise
            finally:
                os.close(file)
        return number

    def _last(self) -> dict[str, Any] | None:
        """The last line; half a line, of a crash while it was written, is cut off."""
        try:
            file = self.path.open("r+b")
        except FileNotFoundError:
            return None
        with file:
            size = file.seek(0, os.SEEK_END)
            tail, start = b"", size
            while start > 0 and tail.rstrip(b"\n").count(b"\n") < 2:
                step = min(start, 65536)
                start -= step
                file.seek(start)
                tail = file.read(step) + tail
            whole, _, half = tail.rpartition(b"\n")
            if half:
                file.truncate(size - len(half))
            if not whole:
                return None
            line = _parsed(whole.rpartition(b"\n")[2] + b"\n")
        if line is None:
            raise InputError(f"{self.path}: the last line is damaged; nothing is sent until then")
        return line


def ledgers(folder: Path) -> list[Ledger]:
    """Return the ledgers below a client's state folder, by name.

    Raises:
        InputError: There is none.

    """
    from urllib.parse import unquote

    files = sorted((folder / FOLDER).glob("*.jsonl"))
    if not files:
        raise InputError(
            f"{folder}: no ledger; name the state-dir of a client that has answered a message"
        )
    return [Ledger(folder, unquote(file.stem)) for file in files]


def plain(text: str) -> str:
    """Return text on one line, shortened, without control characters: a server may have sent it."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:LONGEST]


def _signed(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return json.dumps(content | {"hash": hashlib.sha256(text.encode()).hexdigest()}) + "\n"


def _parsed(raw: bytes) -> dict[str, Any] | None:
    """A line, or None where it is not what was written."""
    try:
        line: dict[str, Any] = json.loads(raw)
        told = line.pop("hash")
        text = json.dumps(line, sort_keys=True)
        if not raw.endswith(b"\n") or hashlib.sha256(text.encode()).hexdigest() != told:
            return None
        return line | {"hash": told}
    except (ValueError, KeyError, AttributeError, TypeError):
        return None
