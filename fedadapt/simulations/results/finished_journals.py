"""Journals of a finished run: its tables hold the same rows in a fraction of the space."""

import hashlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from fedadapt.files import sha256, write_atomically
from fedadapt.simulations.results.journal import JOURNALS, journal_line
from fedadapt.simulations.results.parquet import TABLES, table_rows

log = logging.getLogger(__name__)


def drop_journals(folder: Path) -> None:
    """Remove the journals of a finished run, each after its table has given back all of it."""
    for kind, name in JOURNALS.items():
        journal = folder / name
        if not journal.is_file():
            continue
        content = hashlib.sha256()
        if (folder / TABLES[kind]).is_file():
            for line in _lines(folder, kind):
                content.update(line)
        if content.hexdigest() == sha256(journal):
            journal.unlink()
        else:
            log.warning("%s stays: %s does not hold all of it", journal, TABLES[kind])


def restore_journals(folder: Path) -> None:
    """Write the journals of a finished run again, so that it can go on; those there are stay."""
    for kind, name in JOURNALS.items():
        if not (folder / name).is_file() and (folder / TABLES[kind]).is_file():
            lines = _lines(folder, kind)
            write_atomically(folder / name, partial(_write, lines))


def _write(lines: Iterator[bytes], file: BinaryIO) -> None:
    file.writelines(lines)


def _lines(folder: Path, kind: Any) -> Iterator[bytes]:
    """Yield the lines of a journal as they were written, from the rows of the table."""
    return (journal_line(row) for row in table_rows(folder, kind))
