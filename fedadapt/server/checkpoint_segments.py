"""What clients keep, in files: a checkpoint writes what has changed and uses the other files again.

A segment is one safetensors file, ``kept-<hash>.safetensors``: parts of equal names, shapes and
types stacked over clients. It never changes. The next checkpoint has it too, by a second name of
the same file, so every checkpoint's folder is whole, and the disk lets go of a segment with the
last folder that names it. A segment of which less than half is still true is written anew.
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

PORTION = 2**25  # bytes of a segment, or one client's; writing it takes three times as much memory


@dataclass(frozen=True, eq=False)
class Segment:
    """A file of some clients."""

    file: str
    sha256: str
    groups: list[dict[str, Any]]  # JSON: a part, its clients, row by row, and its names
    clients: tuple[int, ...]  # when it was written


class Place(NamedTuple):
    """Where a client's parts are, and which they were."""

    parts: Mapping[str, Weights]
    segment: Segment


def write_kept(
    folder: Path, states: Kept, before: Mapping[int, Place], there: Path
) -> dict[int, Place]:
    """Put ``states`` into ``folder``, a new checkpoint's, all of it on the disk but the folder.

    What is the same object as before is not written; a ``dict`` is, since it could have changed
    inside. Other mappings must not change.

    Args:
        before: What this returned for the checkpoint before; empty for none.
        there: That checkpoint's folder.

    """
    same = {
        d: place
        for d, place in before.items()
        if states.get(d) is place.parts and not isinstance(place.parts, dict)
    }
    alive = Counter(place.segment for place in same.values())
    used = {
        segment
        for segment, count in alive.items()
        if 2 * count >= len(segment.clients) and (there / segment.file).is_file()
    }
    for segment in used:
        _link(there / segment.file, folder / segment.file)
    places = {d: place for d, place in same.items() if place.segment in used}
    for some in _portions(states, [d for d in sorted(states) if d not in places]):
        segment = _write(folder, some)
        places |= {d: Place(states[d], segment) for d in some}
    return places


def described(places: Mapping[int, Place]) -> list[dict[str, Any]]:
    """What a manifest says of the segments; JSON."""
    alive: dict[Segment, list[int]] = {}
    for client in sorted(places):
        alive.setdefault(places[client].segment, []).append(client)
    return [
        {"file": segment.file, "clients": clients, "groups": segment.groups}
        for segment, clients in alive.items()
    ]


def read_kept(folder: Path, segments: list[dict[str, Any]]) -> dict[int, dict[str, Weights]]:
    """The inverse of ``write_kept``. Tensors are views of the files: read when they are used."""
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
    """The clients' parts, read as they are needed, as many at a time as fit a segment."""
    some: dict[int, Mapping[str, Weights]] = {}
    size = 0
    for client in clients:
        some[client] = dict(states[client])
        size += sum(num_bytes(weights) for weights in some[client].values())
        if size >= PORTION:
            yield some
            some, size = {}, 0
    if some:
        yield some


def _write(folder: Path, some: Mapping[int, Mapping[str, Weights]]) -> Segment:
    groups, stacks = _stacked(some)
    unnamed = folder / "kept.tmp"
    save_file(stacks, unnamed)
    sync(unnamed)
    digest = sha256(unnamed)
    file = f"kept-{digest[:16]}.safetensors"
    unnamed.replace(folder / file)
    return Segment(file, digest, groups, tuple(some))


def _stacked(states: Kept) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """What many clients keep as few tensors: parts of equal names, shapes and types are stacked.

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
