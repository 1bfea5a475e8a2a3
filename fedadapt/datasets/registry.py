"""Benchmarks by name: our table, those of installed packages, ``module:factory`` and folders.

Every benchmark has a reader, a function that is called with those of ``root``, ``seed``,
``clients`` and ``image_size`` that it has parameters for. It returns ``(images, labels)``,
``(images, labels, domains)``, a ``Store``, or a finished ``Benchmark``; see ``docs/data.md``.
Packages add theirs by an entry point of the group ``fedadapt.datasets``. No torch, no numpy.
"""

from dataclasses import replace

from fedadapt.datasets.entries import ANY_FOLDER, ENTRIES, FOLDER, DataEntry, user_entry
from fedadapt.datasets.sources.files import folder_path
from fedadapt.datasets.sources.image_folder import list_images
from fedadapt.registry import Registry

BENCHMARKS = Registry(
    "benchmark",
    "fedadapt.datasets",
    {entry.name: entry.reader for entry in ENTRIES},
    form="folder:/path or module:factory",
)

_BY_NAME = {entry.name: entry for entry in ENTRIES}


def find_benchmark(name: str) -> DataEntry:
    """The entry of a benchmark; a ``folder:`` is listed (not decoded) to count what it holds.

    Raises:
        InputError: No such benchmark, or a folder that is missing, empty or has an empty class.

    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    if not name.startswith(FOLDER):
        return user_entry(name, BENCHMARKS.path(name))
    listing = list_images(folder_path(name))
    return replace(
        ANY_FOLDER,
        name=name,
        classes=len(listing.classes),
        domains=len(listing.domains),
        num_train=len(listing.files),
    )
