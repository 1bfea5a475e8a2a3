"""The contents of a run folder, whether the run is finished or not."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fedadapt.config import adaptations_of
from fedadapt.errors import InputError
from fedadapt.older_runs import refuse_older_run
from fedadapt.records import (
    CommunicationEntry,
    Confidence,
    Evaluation,
    EvaluationFailure,
    RoundLoss,
)
from fedadapt.simulations.results.groups import GROUPS, FoundGroups, read_groups
from fedadapt.simulations.results.journal import JOURNALS, R, journal_rows
from fedadapt.simulations.results.parquet import TABLES, Rows, check_table, table_rows
from fedadapt.simulations.results.summary import SUMMARY

CONFIG = "config.toml"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    What is missing or damaged is empty here and named in ``missing``.
    """

    folder: Path
    config: dict[str, Any]  # kebab-case keys
    manifest: dict[str, Any]  # one level deep: "hash" and the facts
    summary: dict[str, Any]
    evaluations: Rows[Evaluation]
    communication: Rows[CommunicationEntry]
    losses: Rows[RoundLoss]
    failures: Rows[EvaluationFailure]
    confidences: Rows[Confidence]  # where the run recorded them
    groups: FoundGroups | None  # where the method made any
    missing: tuple[str, ...]  # a few words for each file

    @property
    def adaptations(self) -> tuple[str, ...]:
        """The names of the local adaptations as the run was asked for them; () if not known."""
        return adaptations_of(str(self.config.get("adapt", "")))

    @staticmethod
    def read(folder: Path) -> "RunFolder":
        """Read all files; where a table is missing, read the journal of an unfinished run.

        Raises:
            InputError: There is no such folder, nothing of a run in it, or a run of 0.1.0.

        """
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected one that a run has written")
        refuse_older_run(folder)
        names = (CONFIG, MANIFEST, SUMMARY, *TABLES.values(), *JOURNALS.values())
        if not any((folder / name).is_file() for name in names):
            raise InputError(
                f"{folder}: holds no run; expected {CONFIG}, {TABLES[Evaluation]}, ..."
            )
        missing: list[str] = []
        run = RunFolder(
            folder,
            _document(folder / CONFIG, _settings, missing),
            _flat(_document(folder / MANIFEST, json.loads, missing)),
            _document(folder / SUMMARY, json.loads, missing),
            _table(folder, Evaluation, missing),
            _table(folder, CommunicationEntry, missing),
            _table(folder, RoundLoss, missing),
            _table(folder, EvaluationFailure, missing),
            _table(folder, Confidence, missing),
            _groups(folder, missing),
            (),
        )
        return RunFolder(**{**run.__dict__, "missing": tuple(missing)})


def _document(path: Path, parse: Callable[[str], Any], missing: list[str]) -> dict[str, Any]:
    try:
        document = parse(path.read_text("utf-8"))
        if isinstance(document, dict):
            return document
        missing.append(f"{path.name} is damaged")
    except FileNotFoundError:
        missing.append(f"no {path.name}")
    except (OSError, ValueError):
        missing.append(f"{path.name} is damaged")
    return {}


def _settings(text: str) -> dict[str, Any]:
    """Parse settings: scalars by key, and no date or table that somebody has written there.

    Raises:
        ValueError: There is something else.

    """
    settings = tomllib.loads(text)
    if not all(isinstance(value, bool | int | float | str) for value in settings.values()):
        raise ValueError("a value is no number, no word, and neither true nor false")
    return settings


def _table(folder: Path, kind: type[R], missing: list[str]) -> Rows[R]:
    if _is_newest(folder / TABLES[kind], folder / JOURNALS[kind]):
        try:
            check_table(folder, kind)
            return Rows(lambda: table_rows(folder, kind))
        except InputError:
            missing.append(f"{TABLES[kind]} is damaged")
    elif kind is Confidence and not any(True for _ in journal_rows(folder, kind)):
        pass  # only a run that was asked to has any
    elif (folder / JOURNALS[kind]).is_file():
        missing.append(f"no {TABLES[kind]} yet")
    elif kind is not EvaluationFailure:  # most runs have none, and miss nothing
        missing.append(f"no {TABLES[kind]}")
    whole = 0
    try:
        for _ in journal_rows(folder, kind):
            whole += 1
    except InputError:
        missing.append(f"{JOURNALS[kind]} is damaged")
    return Rows(lambda: islice(journal_rows(folder, kind), whole))


def _is_newest(table: Path, journal: Path) -> bool:
    """Whether there is a table, and no journal of a run that has gone on since."""
    try:
        written = table.stat().st_mtime_ns
    except OSError:
        return False
    return not journal.is_file() or written >= journal.stat().st_mtime_ns


def _groups(folder: Path, missing: list[str]) -> FoundGroups | None:
    """Return the groups of a run; most runs have none, which counts as nothing missing."""
    try:
        return read_groups(folder)
    except (OSError, ValueError):
        missing.append(f"{GROUPS} is damaged")
        return None


def _flat(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with the entries of its ``facts`` beside its other entries."""
    metadata = manifest.get("facts")
    return {k: v for k, v in manifest.items() if k != "facts"} | (
        metadata if isinstance(metadata, dict) else {}
    )
