"""Every benchmark there is, and everything about one that can be refused before torch is loaded."""

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from fedadapt.config import RunConfig
from fedadapt.datasets.entries import ANY_FOLDER, CATALOG, FOLDER, Entry
from fedadapt.datasets.partitioning.spec import (
    Partition,
    Rule,
    parse_imbalance,
    parse_partition,
    parse_quantity,
    parse_shift,
)
from fedadapt.datasets.sources.image_folder import Listing, list_images
from fedadapt.errors import InputError, unknown

LEAST_IMAGES = 3
"""What a client needs: one image to train on, one to adapt to, one to be tested on."""


class Row(NamedTuple):
    """A line of ``fedadapt benchmarks``."""

    name: str
    description: str
    images: str  # "60,000 + 10,000 of 28x28x1"
    classes: str
    default: str  # partition, and shift where there is one
    found: bool
    where: str  # what was found, or what must be put where


def data_root(given: str = "") -> Path | None:
    """Where real data sets lie: what was given, else ``$FEDADAPT_DATA``, else nowhere."""
    text = given or os.environ.get("FEDADAPT_DATA", "")
    return Path(text).expanduser() if text else None


def find(benchmark: str) -> Entry:
    """The entry of a benchmark; a ``folder:`` is listed (not decoded) to count what it holds.

    Raises:
        InputError: No such benchmark, or a folder that is missing, empty or has an empty class.

    """
    if benchmark.startswith(FOLDER):
        listing = list_images(folder_path(benchmark))
        return replace(
            ANY_FOLDER,
            name=benchmark,
            classes=len(listing.classes),
            domains=len(listing.domains),
            num_train=len(listing.files),
        )
    by_name = {entry.name: entry for entry in CATALOG}
    if benchmark not in by_name:
        raise unknown("benchmark", benchmark, (*by_name, "folder:/path"))
    return by_name[benchmark]


def listing_of(entry: Entry, given_root: str) -> Listing:
    """The images of a benchmark that is a folder, wherever it lies."""
    if entry.name.startswith(FOLDER):
        return list_images(folder_path(entry.name))
    root = check_root(entry, given_root)
    for name in entry.folders:
        if (root / name).is_dir():
            return list_images(root / name)
    raise InputError(
        f"{root}: {entry.name} is not there; put its folder {' or '.join(entry.folders)} there, "
        "as <domain>/<class>/*.jpg"
    )


def folder_path(benchmark: str) -> Path:
    """The folder in ``folder:/path``."""
    text = benchmark.removeprefix(FOLDER)
    if not text:
        raise InputError("benchmark: 'folder:' names no folder; write folder:/path")
    return Path(text).expanduser()


def npz_path(entry: Entry, root: Path) -> Path:
    """The plain file that stands in for torchvision's: ``<name>.npz``."""
    return root / f"{entry.data or entry.name}.npz"


def missing_files(entry: Entry, root: Path) -> tuple[str, ...]:
    """Which of torchvision's files are not below ``root``."""
    return tuple(name for name in entry.files if not (root / name).is_file())


def normalization_of(config: RunConfig) -> str:
    """The scaling of images that ``auto`` stands for: ImageNet's with weights, else ``data``."""
    if config.normalization != "auto":
        return config.normalization
    return "imagenet" if config.weights else "data"


def check(config: RunConfig) -> None:
    """Refuse everything about the data that can be refused without opening them.

    Files that are not there but could be downloaded are left to ``load_benchmark``.

    Raises:
        InputError: One line naming the key or the file, and what to do.

    """
    entry = find(config.benchmark)
    partition = parse_partition(config.partition or entry.partition)
    shift = parse_shift(config.shift or entry.shift)
    quantity = parse_quantity(config.quantity)
    parse_imbalance(config.imbalance)
    check_partition(entry, partition, config.clients)
    if 0 < config.examples < LEAST_IMAGES:
        raise InputError(
            f"examples: {config.examples} is too few; a client needs {LEAST_IMAGES}: one image to "
            "train on, one to adapt to, one for its test (0: all there are)"
        )
    if config.image_size and not 4 <= config.image_size <= 1024:
        raise InputError(
            f"image-size: {config.image_size} is out of range; it must be 4 to 1024, or 0"
        )
    check_split(entry, config, partition, quantity)
    if entry.folders:
        listing_of(entry, config.data_root)
    elif not entry.built_in and not entry.is_folder:
        check_root(entry, config.data_root)
    whole = entry.built_in or npz_stands_in(entry, config.data_root)
    if not whole and config.clients * LEAST_IMAGES > entry.num_train:
        raise too_many_clients(config.clients, entry.num_train // LEAST_IMAGES, config.benchmark)
    if not entry.built_in and divided_by_flower(partition, quantity):
        need("flwr_datasets", f"partition {config.partition or entry.partition}")
    if shift.name == "corruptions" or shift.corruption == "spatter":
        need("cv2", "the spatter corruption")


def check_partition(entry: Entry, partition: Partition, clients: int) -> None:
    """Refuse a partition that the classes and domains of the data do not allow."""
    if partition.by_domain and entry.domains == 0:
        raise InputError(
            f"partition: by-domain needs images in domains, which {entry.name} does not have; "
            "use folder:/path, or shift=domains"
        )
    if partition.by_domain and clients < entry.domains:
        raise InputError(
            f"clients: {clients} is fewer than the {entry.domains} domains; by-domain needs at "
            "least one client a domain"
        )
    name, value = partition.rule
    if name in ("pathological", "class-types") and value > entry.classes:
        raise InputError(
            f"partition: {name}:{value:g} asks for more than the {entry.classes} classes there are"
        )


def split_of(entry: Entry, config: RunConfig) -> str:
    """``client``, ``pooled`` or ``official``: what ``split`` means here."""
    return entry.split if config.split == "auto" else config.split


def check_split(entry: Entry, config: RunConfig, partition: Partition, quantity: Rule) -> None:
    """Refuse a split that the data or the partition do not allow."""
    split = split_of(entry, config)
    if split == "client":
        return
    if entry.built_in:
        raise InputError(
            f"split: {split}; {entry.name} always deals test images of its own: leave split=auto"
        )
    if split == "official" and (entry.is_folder or not entry.num_test):
        raise InputError(f"split: official; {entry.name} has no test part of its own: use pooled")
    if partition.rule.name not in ("iid", "class-types") or quantity.name != "even":
        raise InputError(
            f"split: {split} shares a kind's images out evenly: it goes with partition iid, "
            "by-domain or class-types:K and quantity even"
        )


def check_root(entry: Entry, given: str) -> Path:
    """The data root, which must exist."""
    root = data_root(given)
    if root is None:
        raise InputError(
            f"data-root: {entry.name} is read from a folder and none is given; set --data-root or "
            "FEDADAPT_DATA"
        )
    if not root.is_dir():
        raise InputError(f"data-root: {root} is no folder; make it or name another")
    return root


def npz_stands_in(entry: Entry, given: str) -> bool:
    """Is there a ``<name>.npz`` under the data root? It may hold any number of images."""
    root = data_root(given)
    return root is not None and not entry.is_folder and npz_path(entry, root).is_file()


def too_many_clients(clients: int, most: int, name: str) -> InputError:
    """The error for data that cannot feed all the clients."""
    return InputError(f"clients: {clients} is more than {name} can serve; at most {most}")


def divided_by_flower(partition: Partition, quantity: Rule) -> bool:
    """Whether it is flwr-datasets that divides the images of a real data set."""
    if partition.rule.name == "iid":
        return not partition.by_domain and quantity.name == "even"
    return partition.rule.name != "class-types"


def need(module: str, what: str) -> None:
    """Refuse ``what`` where the module it takes is not installed."""
    if find_spec(module) is None:
        raise InputError(f'{what} needs {module}; run pip install "fedadapt[simulation]"')


def rows(given_root: str = "") -> list[Row]:
    """What ``fedadapt benchmarks`` shows: each benchmark, and whether its files are there."""
    root = data_root(given_root)
    return [_row(entry, root) for entry in (*CATALOG, ANY_FOLDER)]


def _row(entry: Entry, root: Path | None) -> Row:
    default = entry.partition + (f", {entry.shift}" if entry.shift != "none" else "")
    if entry.name == FOLDER:
        where = "any folder: --benchmark folder:/path"
        return Row("folder:/path", entry.description, "", "", default, True, where)
    size = f"{entry.image_size}x{entry.image_size}x{entry.channels}"
    counts = f"{entry.num_train:,}" + (f" + {entry.num_test:,}" if entry.num_test else "")
    found, where = _found(entry, root)
    return Row(
        entry.name, entry.description, f"{counts} of {size}", str(entry.classes), default,
        found, where,
    )  # fmt: skip


def _found(entry: Entry, root: Path | None) -> tuple[bool, str]:
    if entry.built_in:
        return True, "built in"
    if entry.folders:
        there = [root / name for name in entry.folders if root and (root / name).is_dir()]
        if there:
            return True, str(there[0])
        return False, f"{root or 'set --data-root; there'}: {' or '.join(entry.folders)}/"
    place = entry.files[0].rpartition("/")[0]
    wanted = f"{place}/" if place else " and ".join(entry.files)
    if root is None:
        return False, f"set --data-root; there {wanted} or {entry.data or entry.name}.npz"
    if npz_path(entry, root).is_file():
        return True, str(npz_path(entry, root))
    if not missing_files(entry, root):
        return True, str(root / place)
    return False, f"{root}: {wanted} or {entry.data or entry.name}.npz; downloaded when first used"
