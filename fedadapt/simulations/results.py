"""The tables of a run: Parquet files when it is done, journals of JSON lines while it goes on.

``devices.parquet`` holds ``Evaluation`` rows, ``ledger.parquet`` ``LedgerEntry`` rows,
``losses.parquet`` ``RoundLoss`` rows and, of runs with tasks, ``tasks.parquet`` ``TaskForgetting``
rows; their columns are the records' fields, in order.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, TypeVar, get_type_hints

from fedadapt.errors import InputError
from fedadapt.files import sync, write_atomically
from fedadapt.records import Evaluation, LedgerEntry, RoundLoss, TaskForgetting

Row = Evaluation | LedgerEntry | RoundLoss
R = TypeVar("R", Evaluation, LedgerEntry, RoundLoss)
Table = Row | TaskForgetting
A = TypeVar("A", Evaluation, LedgerEntry, RoundLoss, TaskForgetting)
T = TypeVar("T")

TABLES: dict[type[Table], str] = {
    Evaluation: "devices.parquet",
    LedgerEntry: "ledger.parquet",
    RoundLoss: "losses.parquet",
    TaskForgetting: "tasks.parquet",
}
JOURNALS: dict[type[Row], str] = {
    Evaluation: "evaluations.jsonl",
    LedgerEntry: "ledger.jsonl",
    RoundLoss: "losses.jsonl",
}
ROWS_AT_ONCE = 65_536  # rows of a Parquet row group: all that is held in memory while writing
ROWS_READ = 8_192  # ... and while reading


class Rows(Generic[T]):
    """A table that is read anew by each pass over it: there may be more rows than memory."""

    def __init__(self, read: Callable[[], Iterator[T]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[T]:
        return self._read()

    def __bool__(self) -> bool:
        return any(True for _ in self)


def put(path: Path, content: bytes | Callable[[BinaryIO], object]) -> Path:
    """Write a file of a run in one step (``write_atomically``); returns its path.

    Raises:
        InputError: The folder is missing or cannot be written to, or the disk is full.

    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written; {error.strerror or error}") from None
    return path


def write_evaluations(folder: Path, rows: Iterable[Evaluation]) -> Path:
    """Write ``devices.parquet``; returns its path."""
    return _write(folder, Evaluation, rows)


def write_ledger(folder: Path, rows: Iterable[LedgerEntry]) -> Path:
    """Write ``ledger.parquet``; returns its path."""
    return _write(folder, LedgerEntry, rows)


def write_losses(folder: Path, rows: Iterable[RoundLoss]) -> Path:
    """Write ``losses.parquet``; returns its path."""
    return _write(folder, RoundLoss, rows)


def write_tasks(folder: Path, rows: Iterable[TaskForgetting]) -> Path:
    """Write ``tasks.parquet``; returns its path."""
    return _write(folder, TaskForgetting, rows)


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Read ``devices.parquet``."""
    return list(table_rows(folder, Evaluation))


def read_ledger(folder: Path) -> list[LedgerEntry]:
    """Read ``ledger.parquet``."""
    return list(table_rows(folder, LedgerEntry))


def read_losses(folder: Path) -> list[RoundLoss]:
    """Read ``losses.parquet``."""
    return list(table_rows(folder, RoundLoss))


def read_tasks(folder: Path) -> list[TaskForgetting]:
    """Read ``tasks.parquet``."""
    return list(table_rows(folder, TaskForgetting))


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            'pyarrow: not installed; result tables need it: pip install "fedadapt[simulation]"'
        ) from None
    return pyarrow


def _schema(kind: type[Table]) -> Any:
    arrow = _arrow()
    columns = {int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_()}
    return arrow.schema(
        # What is no number is text: str, and the outcome, a Literal of words.
        arrow.field(name, columns.get(hint, arrow.string()), nullable=False)
        for name, hint in get_type_hints(kind).items()
    )


def _write(folder: Path, kind: type[A], rows: Iterable[A]) -> Path:
    arrow, schema = _arrow(), _schema(kind)
    rest = iter(rows)

    def fill(file: BinaryIO) -> None:
        with arrow.parquet.ParquetWriter(file, schema) as writer:
            while group := list(islice(rest, ROWS_AT_ONCE)):
                columns = [
                    arrow.array(values, field.type)
                    for values, field in zip(zip(*group, strict=True), schema, strict=True)
                ]
                writer.write_table(arrow.table(columns, schema=schema))

    return put(folder / TABLES[kind], fill)


def table_rows(folder: Path, kind: type[A]) -> Iterator[A]:
    """The rows of a finished run's table, some at a time.

    Raises:
        InputError: It is missing or damaged, which may show on the way only.

    """
    for batch in _batches(folder, kind):
        later = kind._field_defaults  # columns that older runs have not
        columns = [
            batch[name].to_pylist() if name in batch.schema.names else [later[name]] * len(batch)
            for name in kind._fields
        ]
        yield from map(kind._make, zip(*columns, strict=True))


def check_table(folder: Path, kind: type[Table]) -> None:
    """Raise what ``table_rows`` would."""
    for _ in _batches(folder, kind):
        pass


def _batches(folder: Path, kind: type[Table]) -> Iterator[Any]:
    arrow, path = _arrow(), folder / TABLES[kind]
    if not path.is_file():
        raise InputError(f"{path}: no such file; a finished run has one")
    try:
        with arrow.parquet.ParquetFile(path) as file:
            for field in _schema(kind):
                if field.name in kind._field_defaults and field.name not in file.schema_arrow.names:
                    continue
                place = file.schema_arrow.get_field_index(field.name)
                if place < 0 or file.schema_arrow.field(place).type != field.type:
                    raise InputError(
                        f"{path}: column {field.name!r} of type {field.type} is missing; "
                        f"expected {', '.join(kind._fields)}"
                    )
            there = [name for name in kind._fields if name in file.schema_arrow.names]
            for batch in file.iter_batches(ROWS_READ, columns=there):
                if any(column.null_count for column in batch.columns):
                    raise InputError(f"{path}: has empty cells; every column must be filled")
                yield batch
    except (OSError, arrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: damaged or not Parquet ({reason}); run it again") from None


def journal_rows(folder: Path, kind: type[R]) -> Iterator[R]:
    """The whole rows of a journal, also of one that another process is writing; changes nothing.

    A last line without its line end was cut off by a crash and is left out.

    Raises:
        InputError: A whole line is not a row.

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
                yield kind._make(values)
            except (ValueError, TypeError) as error:
                raise InputError(
                    f"{path}: line {number} is damaged ({error}); resume from the checkpoint"
                ) from None


class Journal:
    """Rows of a run that is going on, appended line by line, so that a kill loses nothing.

    A line is a JSON list of the record's fields in order. Opening a journal continues it, after
    cutting off what a crash left of a last line.

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
        """Write a row of any of the three types; ``offsets`` takes it to the disk."""
        self._files[type(row)].write(json.dumps(row).encode() + b"\n")

    def offsets(self) -> dict[str, int]:
        """Bytes in each journal, by file name, all of them safe on the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return {
            JOURNALS[kind]: os.stat(file.fileno()).st_size for kind, file in self._files.items()
        }

    def truncate(self, offsets: Mapping[str, int]) -> None:
        """Go back to ``offsets``; a journal not named there is emptied.

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
        """All rows of one type so far, in the order of writing; each call starts a fresh pass."""
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
    """Bytes of ``path``, up to ``end``, that are complete lines."""
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
