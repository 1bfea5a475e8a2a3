"""Everything a run needs to go on after ``kill -9``, on disk between rounds.

::

    <run folder>/checkpoint/
      LATEST                    the name of the newest complete round
      round-00000007/           a folder gets this name only when all in it is on the disk
        state.safetensors       the strategy's tensors
        kept-<hash>.safetensors what clients keep, and what the server keeps of each client, if
                                there is any; see ``checkpoint_segments``
        manifest.json           facts, configuration, the files' hashes, its own hash

A round is written beside the older ones under a name ending in ``.tmp``, which no reader looks at.
Files of client states are shared with the checkpoint before as long as they are up to date: damage
to such a file damages both checkpoints.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedadapt.config import RUNNING
from fedadapt.errors import FedadaptError, InputError
from fedadapt.files import crash_point, disk_full, no_room, sha256, sync, write_atomically
from fedadapt.older_runs import older_run, refuse_older_run
from fedadapt.server.checkpoint_segments import Kept, StoredState, described, read_kept, write_kept
from fedadapt.weights import num_bytes

FORMAT = 3  # fedadapt 0.1.0 wrote formats 1 and 2, which are not read

MAY_CHANGE = tuple(key for key in RUNNING if key != "rounds")
"""Settings that may change when a run is resumed, since they do not change what is computed.

``device`` is one of them, because a GPU may no longer be there; results then agree up to rounding.
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run between two rounds."""

    round: int  # the last finished round
    tensors: dict[str, Tensor] = field(default_factory=dict)  # the strategy's state
    metadata: dict[str, Any] = field(
        default_factory=dict
    )  # JSON: the rest of the state, and offsets in journals
    states: Kept = field(default_factory=dict)  # client -> part -> weights
    server_states: Kept = field(default_factory=dict)  # the same, of the strategy's state
    config: dict[str, Any] = field(default_factory=dict)  # JSON: the run's settings


class Checkpoints:
    """Writes the checkpoints of one run folder; each writes only what has changed.

    The first checkpoint holds all client states, later ones share files with it. The run must be
    the only writer.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """Begin to write into a run folder and keep the ``keep`` newest checkpoints."""
        if keep < 1:
            raise ValueError(f"keep={keep}: at least one checkpoint must stay")
        self._base = folder / "checkpoint"
        self._keep = keep
        self._last = self._base
        self._stored: dict[int, StoredState] = {}  # of client states, in ``_last``

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, then remove those that are too old.

        Checkpoints of later rounds are removed too, because the run has gone back.

        Returns:
            The folder of this checkpoint.

        Raises:
            DiskFullError: There is no room for it; the older ones are intact.
            FedadaptError: It cannot be written for another reason; the same.

        """
        final = self._base / f"round-{checkpoint.round:08d}"
        unfinished = final.with_suffix(".tmp")
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            stored = write_kept(unfinished, _together(checkpoint), self._stored, self._last)
            _write(unfinished, checkpoint, stored)
            _rename(unfinished, final)
            self._last, self._stored = final, stored
            write_atomically(self._base / "LATEST", f"{final.name}\n".encode())
        except (OSError, SafetensorError) as error:
            if no_room(error):
                raise disk_full(final, _size(checkpoint)) from error
            raise FedadaptError(
                f"{final}: the checkpoint cannot be written ({_one_line(error)}); "
                "the one before it is intact"
            ) from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        crash_point("latest-updated")
        # Those of a kill included, in the middle of writing a checkpoint or of removing one.
        rounds = [p for p in _rounds(self._base) if not p.suffix and p.name <= final.name]
        for entry in self._base.glob("round-*"):
            if entry not in rounds[: self._keep]:
                shutil.rmtree(entry, ignore_errors=True)
        return final


def save(folder: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write a single checkpoint; see ``Checkpoints``."""
    return Checkpoints(folder, keep).save(checkpoint)


def load_latest(folder: Path) -> Checkpoint:
    """Return the newest intact checkpoint of a run folder; log a warning for each damaged one.

    Raises:
        InputError: There is none, or another version of fedadapt wrote it.

    """
    refuse_older_run(folder)
    base = folder / "checkpoint"
    candidates = _rounds(base)
    try:
        latest = base / (base / "LATEST").read_text("utf-8").strip()
        # The newest folder may be of a save that was cut off, so LATEST is tried first.
        candidates.sort(key=lambda p: p == latest, reverse=True)
        if latest not in candidates:
            log.warning("%s: named by LATEST but not there; trying another checkpoint", latest)
    except (OSError, UnicodeDecodeError):
        pass
    for candidate in candidates:
        try:
            return _read(candidate)
        except InputError:  # a ValueError too, but no damage
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("%s: damaged (%s); trying another one", candidate, _one_line(error))
    problem = f"none of {len(candidates)} checkpoints is intact" if candidates else "no checkpoint"
    raise InputError(f"{base}: {problem}; start the run anew, without --resume")


def check_same_config(
    saved: Mapping[str, Any], now: Mapping[str, Any], ignore: Collection[str] = MAY_CHANGE
) -> None:
    """Refuse to go on with other settings than the run began with; ``rounds`` may grow.

    Raises:
        InputError: It names every key that differs, with both values.

    """
    differing = []
    for key in sorted({*saved, *now} - {*ignore}):
        before, after = saved.get(key), now.get(key)
        if key == "rounds" and before is not None and after is not None and after >= before:
            continue
        if before != after:
            differing.append(f"{key} was {_shown(saved, key)}, is {_shown(now, key)}")
    if differing:
        raise InputError(
            f"resume: other settings than the run began with: {'; '.join(differing)}; "
            "give the former values or start a new run"
        )


def _shown(config: Mapping[str, Any], key: str) -> str:
    return repr(config[key]) if key in config else "not set"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _rounds(base: Path) -> list[Path]:
    """Return the complete checkpoints, newest first; a replaced one (``.old``) comes last."""
    folders = [p for p in base.glob("round-*") if re.fullmatch(r"round-\d+(\.old)?", p.name)]
    return sorted(folders, key=lambda p: (p.stem, not p.suffix), reverse=True)


def _rename(unfinished: Path, final: Path) -> None:
    """Give a complete checkpoint its final name; one of the same round is replaced by it."""
    if final.exists():
        old = final.with_suffix(".old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        crash_point("set-aside")
    unfinished.rename(final)
    sync(final.parent)
    crash_point("renamed")


def _write(folder: Path, checkpoint: Checkpoint, stored: Mapping[int, StoredState]) -> None:
    state, manifest_file = folder / "state.safetensors", folder / "manifest.json"
    save_file(_storable(checkpoint.tensors), state)
    segments = {entry.segment for entry in stored.values()}
    manifest = {
        "format": FORMAT,
        "round": checkpoint.round,
        "facts": checkpoint.metadata,
        "config": checkpoint.config,
        "names": list(checkpoint.tensors),  # their order: sums over names depend on it
        "segments": described(stored),
        "sha256": {state.name: sha256(state)} | {s.file: s.sha256 for s in segments},
    }
    text = json.dumps(manifest)
    signed = {"manifest": json.loads(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    manifest_file.write_text(json.dumps(signed), "utf-8")
    crash_point("tmp-written")
    for path in (state, manifest_file, folder):
        sync(path)
    crash_point("fsynced")


def _read(folder: Path) -> Checkpoint:
    signed = json.loads((folder / "manifest.json").read_text("utf-8"))
    manifest = signed["manifest"]
    if manifest["format"] < FORMAT:
        raise older_run(folder)
    if manifest["format"] > FORMAT:
        raise InputError(
            f"{folder}: format {manifest['format']}; this fedadapt reads format {FORMAT}, update it"
        )
    if hashlib.sha256(json.dumps(manifest).encode()).hexdigest() != signed["sha256"]:
        raise ValueError("manifest.json is not what was written")
    for name, written in manifest["sha256"].items():
        if sha256(folder / name) != written:
            raise ValueError(f"{name} is not what was written")
    state = load_file(folder / "state.safetensors")
    kept = read_kept(folder, manifest["segments"])
    return Checkpoint(
        round=manifest["round"],
        tensors={name: state[name] for name in manifest["names"]},
        metadata=manifest["facts"],
        states={client: parts for client, parts in kept.items() if client >= 0},
        server_states={~client: parts for client, parts in kept.items() if client < 0},
        config=manifest["config"],
    )


def _size(checkpoint: Checkpoint) -> int:
    """Return the bytes of all tensors of a checkpoint, the most that it takes."""
    kept = (*checkpoint.states.values(), *checkpoint.server_states.values())
    parts = [checkpoint.tensors, *(weights for parts in kept for weights in parts.values())]
    return sum(num_bytes(weights) for weights in parts)


def _together(checkpoint: Checkpoint) -> Kept:
    """Return all states by one number: what the server keeps of client d is that of ``~d`` < 0."""
    of_server = {~client: parts for client, parts in checkpoint.server_states.items()}
    return {**checkpoint.states, **of_server}


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as safetensors stores them: on the CPU, contiguous, none sharing memory."""
    owners: set[int] = set()
    storable = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        owner = plain.untyped_storage().data_ptr()
        storable[name] = plain.clone() if owner in owners else plain
        owners.add(owner)
    return storable
