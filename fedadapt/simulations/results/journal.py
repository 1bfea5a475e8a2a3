"""Tables of a run that is still going on: journals with a line of JSON for each row."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from fedadapt.errors import InputError
from fedadapt.files import sync
from fedadapt.records import (
    CommunicationEntry,
    Confidence,
    Evaluation,
    EvaluationFailure,
    RoundLoss,
)
from fedadapt.simulations.results.parquet import Row

R = TypeVar("R", Evaluation, CommunicationEntry, RoundLoss, EvaluationFailure, Confidence)

JOURNALS: dict[type[Row], str] = {
    Evaluation: "evaluations.jsonl",
    CommunicationEntry: "communication.jsonl",
    RoundLoss: "losses.jsonl",
    EvaluationFailure: "failures.jsonl",
    Confidence: "confidences.jsonl",
}


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
                values = json.loads(line)
                if not isinstance(values, list):
                    raise ValueError("not a list")
                row = kind._make(values)
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{path}: line {number} is damaged ({error}); resume from the checkpoint"
                ) from None
            yield row


class Journal:
    """Rows of a run that is still going on, appended line by line: a kill loses none of them.

    A line is a JSON list of the record's fields in order. Opening an existing journal continues
    it: an incomplete last line, which a crash leaves, is cut off first.

    A checkpoint stores ``offsets()``; a resumed run calls ``truncate`` with them, which drops the
    rows written after the checkpoint: the run writes those anew.

    Raises:
        InputError: The folder cannot be written to.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._files = {kind: (folder / name).open("ab") for kind, name in JOURNALS.items()}
            for kind, file in self._files.items():
                file.truncate(_whole_lines(folder / JOURNALS[kind]))
            sync(folder)
        except OSError as error:
            raise InputError(f"{folder}: cannot be written; {error.strerror or error}") from None

    def append(self, row: Row) -> None:
        """Append a row of any of the types; ``offsets`` makes sure that it is on the disk."""
        self._files[type(row)].write(json.dumps(row).encode() + b"\n")

    def offsets(self) -> dict[str, int]:
        """Return the number of bytes in each journal by file name, all of them safe on the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return {
            JOURNALS[kind]: os.stat(file.fileno()).st_size for kind, file in self._files.items()
        }

    def truncate(self, offsets: Mapping[str, int]) -> None:
        """Cut each journal to the length in ``offsets``; one that is not named there is emptied.

        Raises:
            InputError: A journal is shorter than its offset, or the offset is inside a line.

        """
        sizes = self.offsets()
        for name, size in sizes.items():
            offset = offsets.get(name, 0)
            if not 0 <= offset <= size:
                raise InputError(
                    f"{self.folder / name}: {size} bytes, but the checkpoint was made at {offset}; "
                    "it belongs to another run"
                )
            if _whole_lines(self.folder / name, offset) != offset:
                raise InputError(
                    f"{self.folder / name}: the checkpoint was made at byte {offset}, inside a "
                    "line; it belongs to another run"
                )
        for kind, file in self._files.items():
            file.truncate(offsets.get(JOURNALS[kind], 0))
            os.fsync(file.fileno())

    def rows(self, kind: type[R]) -> Iterator[R]:
        """Return all rows of one type so far, in the order of writing.

        Each call starts a new pass.
        """
        self._files[kind].flush()
        return journal_rows(self.folder, kind)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _whole_lines(path: Path, end: int | None = None) -> int:
    """Return how many bytes of ``path``, up to ``end``, are complete lines."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) if end is None else end
        while end > 0:
            start = max(0, end - 65_536)
            file.seek(start)
            line_end = file.read(end - start).rfind(b"\n")
            if line_end >= 0:
                return start + line_end + 1
            end = start
    return 0
