"""Settings of runs on own data, checked without opening any. No torch, no numpy."""

from dataclasses import fields
from pathlib import Path

from fedadapt.config import RunConfig
from fedadapt.datasets.data_spec import check_image_size
from fedadapt.datasets.own.names import OWN, REHEARSAL
from fedadapt.datasets.own.pictures import class_name
from fedadapt.errors import InputError, shown

_OF_BENCHMARKS = (
    "partition", "shift", "quantity", "imbalance", "unseen", "split", "examples", "adapt_share",
    "test_share", "server_share",
)  # fmt: skip


def check_own(config: RunConfig) -> None:
    """Refuse settings that do not go with own data, without opening any.

    Raises:
        InputError: One line naming the key.

    """
    defaults = {f.name: f.default for f in fields(RunConfig)}
    for key in _OF_BENCHMARKS:
        if getattr(config, key) != defaults[key]:
            raise InputError(
                f"{key.replace('_', '-')}: own data do not use it, a client has its own and cuts "
                "them itself; leave it out"
            )
    check_image_size(config.image_size)
    if parse_classes(config.classes) and config.server_data:
        raise InputError("classes: server-data has them; leave classes out")
    if config.server_data:
        server_folders(config)
    if config.benchmark.startswith(REHEARSAL):
        client_folders(config)


def client_folders(config: RunConfig) -> dict[str, Path]:
    """Folder of each client, by its name, sorted.

    Raises:
        InputError: There are none, or another number; or the clients are real.

    """
    if config.benchmark == OWN:
        raise InputError(f"benchmark: {OWN}; the data are on the clients, and nowhere else")
    root = Path(config.benchmark.removeprefix(REHEARSAL)).expanduser()
    if not root.is_dir():
        raise InputError(f"benchmark: {shown(root)} is no folder; write {REHEARSAL}/path")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise InputError(f"benchmark: {shown(root)} has no folders <client>/<class>/*.jpg")
    if len(folders) != config.clients:
        raise InputError(
            f"clients: {config.clients}; {shown(root)} has those of {len(folders)}: set "
            f"clients={len(folders)}"
        )
    return {folder.name: folder for folder in folders}


def server_folders(config: RunConfig) -> dict[str, Path]:
    """Folders of the server's own pictures by name, sorted.

    Of each task, in the order in which they are learnt; or of each class, where there are no tasks.

    Raises:
        InputError: There are none.

    """
    root = Path(config.server_data).expanduser()
    if not root.is_dir():
        raise InputError(f"server-data: {shown(root)} is no folder of the server")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise InputError(
            f"server-data: {shown(root)} has no folders: <class>/*.jpg, or "
            "<task>/<class>/*.jpg for a strategy that learns tasks"
        )
    return {folder.name: folder for folder in folders}


def parse_classes(text: str) -> tuple[str, ...]:
    """``"cat, dog"`` -> ("cat", "dog"), in the order given; "" -> ().

    Raises:
        InputError: A name is none, or is there twice, or there is one only.

    """
    if not text.strip():
        return ()
    names = tuple(class_name(word) for word in text.split(","))
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"classes: {twice!r} is there twice")
    if len(names) < 2:
        raise InputError(f"classes: {names[0]!r} alone; at least two are needed")
    return names
