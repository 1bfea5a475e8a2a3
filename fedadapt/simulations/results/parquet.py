"""The tables of a finished run: Parquet files.

``clients.parquet`` holds ``Evaluation`` rows, ``failures.parquet`` ``EvaluationFailure`` rows,
``communication.parquet`` ``CommunicationEntry`` rows, ``losses.parquet`` ``RoundLoss`` rows and, of
runs with tasks, ``tasks.parquet`` ``TaskForgetting`` rows; their columns are the records' fields,
in order.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar, get_type_hints

from fedadapt.errors import DiskFullError, InputError
from fedadapt.files import write_atomically
from fedadapt.records import (
    CommunicationEntry,
    Confidence,
    Evaluation,
    EvaluationFailure,
    RoundLoss,
    TaskForgetting,
)

Row = Evaluation | CommunicationEntry | RoundLoss | EvaluationFailure | Confidence
Table = Row | TaskForgetting
A = TypeVar(
    "A", Evaluation, CommunicationEntry, RoundLoss, EvaluationFailure, TaskForgetting, Confidence
)
T = TypeVar("T")

TABLES: dict[type[Table], str] = {
    Evaluation: "clients.parquet",
    CommunicationEntry: "communication.parquet",
    RoundLoss: "losses.parquet",
    EvaluationFailure: "failures.parquet",
    TaskForgetting: "tasks.parquet",
    Confidence: "confidences.parquet",
}
ROWS_AT_ONCE = 65_536  # rows of a Parquet row group: all that is held in memory while writing
ROWS_READ = 8_192  # ... and while reading


class Rows(Generic[T]):
    """A table that every pass reads again, because it may be larger than memory."""

    def __init__(self, read: Callable[[], Iterator[T]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[T]:
        return self._read()

    def __bool__(self) -> bool:
        return any(True for _ in self)


def put(path: Path, content: bytes | Callable[[BinaryIO], object]) -> Path:
    """Write a file of a run in one step (``write_atomically``) and return its path.

    Raises:
        InputError: The folder is missing or cannot be written to.
        DiskFullError: There is no room for it.

    """
    try:
        write_atomically(path, content)
    except DiskFullError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be written; {error.strerror or error}") from None
    return path


def write_evaluations(folder: Path, rows: Iterable[Evaluation]) -> Path:
    """Write ``clients.parquet`` and return its path."""
    return _write(folder, Evaluation, rows)


def write_communication(folder: Path, rows: Iterable[CommunicationEntry]) -> Path:
    """Write ``communication.parquet`` and return its path."""
    return _write(folder, CommunicationEntry, rows)


def write_losses(folder: Path, rows: Iterable[RoundLoss]) -> Path:
    """Write ``losses.parquet`` and return its path."""
    return _write(folder, RoundLoss, rows)


def write_failures(folder: Path, rows: Iterable[EvaluationFailure]) -> Path:
    """Write ``failures.parquet`` and return its path."""
    return _write(folder, EvaluationFailure, rows)


def write_confidences(folder: Path, rows: Iterable[Confidence]) -> Path:
    """Write ``confidences.parquet``; returns its path."""
    return _write(folder, Confidence, rows)


def write_tasks(folder: Path, rows: Iterable[TaskForgetting]) -> Path:
    """Write ``tasks.parquet`` and return its path."""
    return _write(folder, TaskForgetting, rows)


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Read all rows of ``clients.parquet``."""
    return list(table_rows(folder, Evaluation))


def read_communication(folder: Path) -> list[CommunicationEntry]:
    """Read all rows of ``communication.parquet``."""
    return list(table_rows(folder, CommunicationEntry))


def read_losses(folder: Path) -> list[RoundLoss]:
    """Read all rows of ``losses.parquet``."""
    return list(table_rows(folder, RoundLoss))


def read_tasks(folder: Path) -> list[TaskForgetting]:
    """Read all rows of ``tasks.parquet``."""
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
    columns: dict[Any, Any] = {
        int: arrow.int64(),
        float: arrow.float64(),
        bool: arrow.bool_(),
        list[bool]: arrow.list_(arrow.bool_()),
        list[float]: arrow.list_(arrow.float64()),
    }
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
    """Yield the rows of a finished run's table, which is read in portions.

    Raises:
        InputError: The table is missing or damaged, which may show only after some rows.

    """
    for batch in _batches(folder, kind):
        later = kind._field_defaults  # columns that older runs have not
        columns = [
            _values(batch[name]) if name in batch.schema.names else [later[name]] * len(batch)
            for name in kind._fields
        ]
        yield from map(kind._make, zip(*columns, strict=True))


def _values(column: Any) -> list[Any]:
    """Return a column as a list, NaN always as the same object: rows with it are equal."""
    values: list[Any] = column.to_pylist()
    if str(column.type) != "double":
        return values
    return [math.nan if value != value else value for value in values]


def check_table(folder: Path, kind: type[Table]) -> None:
    """Read a table once; raise what ``table_rows`` would raise."""
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
                index = file.schema_arrow.get_field_index(field.name)
                if index < 0 or file.schema_arrow.field(index).type != field.type:
                    raise InputError(
                        f"{path}: column {field.name!r} of type {field.type} is missing; "
                        f"expected {', '.join(kind._fields)}"
                    )
            columns = [name for name in kind._fields if name in file.schema_arrow.names]
            for batch in file.iter_batches(ROWS_READ, columns=columns):
                if any(column.null_count for column in batch.columns):
                    raise InputError(f"{path}: has empty cells; every column must be filled")
                yield batch
    except (OSError, arrow.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: damaged or not Parquet ({reason}); run it again") from None
