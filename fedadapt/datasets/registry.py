"""Benchmarks by name: our table, those of installed packages, ``module:factory`` and folders.

Every benchmark has a reader, a function that is called with those of ``root``, ``seed``,
``clients`` and ``image_size`` that it has parameters for. It returns ``(images, labels)``,
``(images, labels, domains)``, a ``Store``, or a finished ``Benchmark``; see ``docs/data.md``.
Packages add theirs by an entry point of the group ``fedadapt.datasets``. No torch, no numpy.
"""

from collections.abc import Mapping
from dataclasses import replace

from fedadapt.datasets.entries import (
    ANY_CLIENTS,
    ANY_FOLDER,
    ANY_HUGGING_FACE,
    ANY_NPZ,
    CLIENTS,
    ENTRIES,
    FOLDER,
    HUGGING_FACE,
    NATURAL,
    NPZ,
    DataEntry,
    user_entry,
)
from fedadapt.datasets.sources.files import folder_path
from fedadapt.datasets.sources.image_folder import Listing, list_images
from fedadapt.parameters import Scalar
from fedadapt.registry import Registry

BENCHMARKS = Registry(
    "benchmark",
    "fedadapt.datasets",
    {entry.name: entry.reader for entry in ENTRIES},
    form="clients:/path, npz:/path, hf:NAME, folder:/path or module:factory",
)

_BY_NAME = {entry.name: entry for entry in ENTRIES}


def defaults_of_owned(settings: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Defaults for data that belong to their clients: all of these are there.

    Args:
        settings: What was given, by kebab-case key.

    """
    name = str(settings.get("benchmark", ""))
    entry = _BY_NAME.get(name, ANY_CLIENTS if name.startswith(CLIENTS) else None)
    usual = NATURAL if entry is not None and entry.partition == NATURAL else ""
    return {"clients": 0} if settings.get("partition", usual) == NATURAL else {}


def find_benchmark(name: str) -> DataEntry:
    """The entry of a benchmark; a ``folder:`` is listed (not decoded) to count what it holds.

    Raises:
        InputError: No such benchmark, or a folder that is missing, empty or has an empty class.

    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name.startswith(FOLDER):
        listing = list_images(folder_path(name))
        entry = replace(ANY_FOLDER, domains=len(listing.domains))
        return _counted(entry, name, listing)
    if name.startswith(CLIENTS):
        listing = list_images(folder_path(name, CLIENTS), "client")
        entry = replace(ANY_CLIENTS, owners=len(listing.domains))
        return _counted(entry, name, listing)
    for prefix, entry in ((NPZ, ANY_NPZ), (HUGGING_FACE, ANY_HUGGING_FACE)):
        if name.startswith(prefix):
            return replace(entry, name=name)
    return user_entry(name, BENCHMARKS.path(name))


def _counted(entry: DataEntry, name: str, listing: Listing) -> DataEntry:
    """The entry of a folder that was listed."""
    return replace(entry, name=name, classes=len(listing.classes), num_train=len(listing.files))
