"""Tables of a run that is still going on: journals with a line of named JSON for each row."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from fedadapt.errors import InputError
from fedadapt.files import disk_full, no_room, sync
from fedadapt.records import (
    CommunicationEntry,
    Confidence,
    Evaluation,
    EvaluationFailure,
    RoundLoss,
)
from fedadapt.simulations.results.parquet import Row

R = TypeVar("R", Evaluation, CommunicationEntry, RoundLoss, EvaluationFailure, Confidence)

CONSTANTS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Always the same objects: rows with equal numbers are equal, also where a number is missing."""

JOURNALS: dict[type[Row], str] = {
    Evaluation: "evaluations.jsonl",
    CommunicationEntry: "communication.jsonl",
    RoundLoss: "losses.jsonl",
    EvaluationFailure: "failures.jsonl",
    Confidence: "confidences.jsonl",
}


def journal_line(row: Row) -> bytes:
    """Return a row as a line: a JSON object with the record's fields by name."""
    return json.dumps(row._asdict()).encode() + b"\n"


def journal_rows(folder: Path, kind: type[R]) -> Iterator[R]:
    """Yield the complete rows of a journal; another process may be writing it.

    A last line without its line end was cut off by a crash and is left out.

    Raises:
        InputError: A complete line is not a row.

    """
    path = folder / JOURNALS[kind]
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                values = json.loads(line, parse_constant=CONSTANTS.__getitem__)
                if not isinstance(values, dict):
                    raise ValueError("not an object")
                row = kind(**values)
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{path}: line {number} is damaged ({error}); resume from the checkpoint"
                ) from None
            yield row


class Journal:
    """Rows of a run that is still going on, appended line by line: a kill loses none of them.

    Opening an existing journal continues it: an incomplete last line, which a crash leaves, is cut
    off first.

    A checkpoint stores ``positions()``; a resumed run calls ``truncate`` with them, which drops the
    rows written after the checkpoint: the run writes those anew. A position has the hash of all
    that is before it, which is carried on from row to row.

    Args:
        folder: Of the run.
        told: Gets each row once it is written.

    Raises:
        InputError: The folder cannot be written to.
        DiskFullError: There is no room.

    """

    def __init__(self, folder: Path, told: Callable[[Row], None] | None = None) -> None:
        self.folder = folder
        self._told = told
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._files = {kind: (folder / name).open("ab") for kind, name in JOURNALS.items()}
            for kind, file in self._files.items():
                file.truncate(_whole_lines(folder / JOURNALS[kind]))
            sync(folder)
            self._hashes = {kind: _hash(folder / name) for kind, name in JOURNALS.items()}
        except OSError as error:
            if no_room(error):
                raise disk_full(folder) from error
            raise InputError(f"{folder}: cannot be written; {error.strerror or error}") from None

    def append(self, row: Row) -> None:
        """Append a row of any of the types; ``positions`` makes sure that it is on the disk."""
        kind, line = type(row), journal_line(row)
        with self._writing(kind):
            self._files[kind].write(line)
        self._hashes[kind].update(line)
        if self._told is not None:
            self._told(row)

    def positions(self) -> dict[str, list[int | str]]:
        """Return (bytes, SHA-256 in hex) of each journal by file name, all of it on the disk."""
        for kind, file in self._files.items():
            with self._writing(kind):
                file.flush()
                os.fsync(file.fileno())
        return {
            JOURNALS[kind]: [os.stat(file.fileno()).st_size, self._hashes[kind].hexdigest()]
            for kind, file in self._files.items()
        }

    def truncate(self, positions: Mapping[str, Sequence[int | str] | int]) -> None:
        """Cut each journal to its position; one that is not named there is emptied.

        A position without a hash is one of a run that was begun before there were hashes.

        Raises:
            InputError: A journal is shorter than that, or what it holds is not what it held then.

        """
        sizes = {name: int(size) for name, (size, _) in self.positions().items()}
        hashes, offsets = {}, {}
        for kind, name in JOURNALS.items():
            position = positions.get(name, 0)
            offset = int(position if isinstance(position, int) else position[0])
            path, where = self.folder / name, f"the checkpoint was made at byte {offset}"
            if not 0 <= offset <= sizes[name]:
                raise InputError(
                    f"{path}: {sizes[name]} bytes, but {where}; it belongs to another run"
                )
            hashes[kind], offsets[kind] = _hash(path, offset), offset
            if not isinstance(position, int) and hashes[kind].hexdigest() != position[1]:
                raise InputError(
                    f"{path}: {where}, and what is before it is not what it was then; it was "
                    "changed, or belongs to another run"
                )
        for kind, file in self._files.items():
            file.truncate(offsets[kind])
            os.fsync(file.fileno())
        self._hashes = hashes

    def rows(self, kind: type[R]) -> Iterator[R]:
        """Return all rows of one type so far, in the order of writing.

        Each call starts a new pass.
        """
        with self._writing(kind):
            self._files[kind].flush()
        return journal_rows(self.folder, kind)

    def close(self) -> None:
        """Close all files.

        Raises:
            DiskFullError: The last rows have no room.

        """
        errors = []
        for kind, file in self._files.items():  # all are closed, whatever happens to some
            try:
                with self._writing(kind):
                    file.close()
            except OSError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    @contextmanager
    def _writing(self, kind: type[Row]) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not no_room(error):
                raise
            raise disk_full(self.folder / JOURNALS[kind]) from error

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OSError:
            if error is None:  # else that one says what happened
                raise


def _hash(path: Path | None = None, end: int | None = None) -> "hashlib._Hash":
    """Return the running hash of a file's first ``end`` bytes, or of all of it; or of nothing."""
    running = hashlib.sha256()
    if path is not None and end != 0:
        with path.open("rb") as file:
            left = os.stat(file.fileno()).st_size if end is None else end
            while left > 0 and (piece := file.read(min(left, 2**20))):
                running.update(piece)
                left -= len(piece)
    return running


def _whole_lines(path: Path) -> int:
    """Return how many bytes of ``path`` are complete lines."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65_536)
            file.seek(start)
            line_end = file.read(end - start).rfind(b"\n")
            if line_end >= 0:
                return start + line_end + 1
            end = start
    return 0
