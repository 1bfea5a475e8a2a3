"""Client states in files: a checkpoint writes what has changed and links the other files.

A segment is one safetensors file, ``kept-<hash>.safetensors``, with parts of equal names, shapes
and types stacked over clients. It never changes. The next checkpoint has it as a hard link, so the
folder of every checkpoint is complete, and the file is freed with the last folder that links it. A
segment of which less than half is up to date is written anew.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedadapt.files import sha256, sync
from fedadapt.weights import Weights, num_bytes

Kept = Mapping[int, Mapping[str, Weights]]  # client -> part -> weights

PORTION = (
    2**25
)  # bytes of a segment, or one client's state; writing it takes three times as much memory


@dataclass(frozen=True, eq=False)
class Segment:
    """A file with the states of some clients."""

    file: str
    sha256: str
    groups: list[dict[str, Any]]  # JSON: a part, its clients, row by row, and its names
    clients: tuple[int, ...]  # whose states it held when it was written


class StoredState(NamedTuple):
    """The segment that holds a client's state, and the parts as they were then."""

    parts: Mapping[str, Weights]
    segment: Segment


def write_kept(
    folder: Path, states: Kept, before: Mapping[int, StoredState], old_folder: Path
) -> dict[int, StoredState]:
    """Write ``states`` into the folder of a new checkpoint; files are synced, the folder is not.

    A state that is the same object as before is not written again, unless it is a ``dict``, whose
    content may have changed. Other mappings must not change.

    Args:
        before: The result of this function for the checkpoint before; empty for the first.
        old_folder: The folder of that checkpoint.

    """
    same = {
        d: entry
        for d, entry in before.items()
        if states.get(d) is entry.parts and not isinstance(entry.parts, dict)
    }
    alive = Counter(entry.segment for entry in same.values())
    used = {
        segment
        for segment, count in alive.items()
        if 2 * count >= len(segment.clients) and (old_folder / segment.file).is_file()
    }
    for segment in used:
        _link(old_folder / segment.file, folder / segment.file)
    stored = {d: entry for d, entry in same.items() if entry.segment in used}
    for portion in _portions(states, [d for d in sorted(states) if d not in stored]):
        segment = _write(folder, portion)
        stored |= {d: StoredState(states[d], segment) for d in portion}
    return stored


def described(stored: Mapping[int, StoredState]) -> list[dict[str, Any]]:
    """Describe the segments for a manifest, as JSON."""
    alive: dict[Segment, list[int]] = {}
    for client in sorted(stored):
        alive.setdefault(stored[client].segment, []).append(client)
    return [
        {"file": segment.file, "clients": clients, "groups": segment.groups}
        for segment, clients in alive.items()
    ]


def read_kept(folder: Path, segments: list[dict[str, Any]]) -> dict[int, dict[str, Weights]]:
    """Read what ``write_kept`` wrote. Tensors are views of files, read when they are used."""
    states: dict[int, dict[str, Weights]] = {}
    for segment in segments:
        alive = set(segment["clients"])
        states |= {client: {} for client in segment["clients"]}
        stacks = load_file(folder / segment["file"])
        for index, group in enumerate(segment["groups"]):
            named = [(name, stacks[f"{index}/{name}"]) for name in group["names"]]
            for row, client in enumerate(group["clients"]):
                if client in alive:
                    states[client][group["part"]] = {name: stack[row] for name, stack in named}
    return states


def _portions(states: Kept, clients: list[int]) -> Iterator[dict[int, Mapping[str, Weights]]]:
    """Yield the clients' parts, as many at a time as fit into a segment."""
    portion: dict[int, Mapping[str, Weights]] = {}
    size = 0
    for client in clients:
        portion[client] = dict(states[client])
        size += sum(num_bytes(weights) for weights in portion[client].values())
        if size >= PORTION:
            yield portion
            portion, size = {}, 0
    if portion:
        yield portion


def _write(folder: Path, portion: Mapping[int, Mapping[str, Weights]]) -> Segment:
    groups, stacks = _stacked(portion)
    unnamed = folder / "kept.tmp"
    save_file(stacks, unnamed)
    sync(unnamed)
    digest = sha256(unnamed)
    file = f"kept-{digest[:16]}.safetensors"
    unnamed.replace(folder / file)
    return Segment(file, digest, groups, tuple(portion))


def _stacked(states: Kept) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Stack client states into few tensors: parts of equal names, shapes and types together.

    Returns:
        Groups of clients, each with its part and the names in it; tensors ``group/name``, [D, ...].
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for client, parts in states.items():
        for part, weights in parts.items():
            kind = tuple((n, tuple(t.shape), t.dtype) for n, t in weights.items())
            alike.setdefault((part, kind), []).append(client)
    groups, stacks = [], {}
    for index, ((part, kind), clients) in enumerate(alike.items()):
        names = [name for name, _, _ in kind]
        groups.append({"part": part, "clients": clients, "names": names})
        for name in names:
            rows = torch.stack([states[d][part][name].detach() for d in clients])
            stacks[f"{index}/{name}"] = rows.cpu()
    return groups, stacks


def _link(existing: Path, name: Path) -> None:
    try:
        os.link(existing, name)
    except OSError:  # a file system without second names
        shutil.copyfile(existing, name)
        sync(name)
