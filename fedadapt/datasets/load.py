"""``load_benchmark``: from the settings of a run to its clients' images."""

import json
import logging
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark, Manifest, MeasuredScaling, Scaling
from fedadapt.datasets.catalog import check, find, listing_of, normalization_of, split_of
from fedadapt.datasets.entries import FOLDER, Entry
from fedadapt.datasets.in_memory import StoredBenchmark
from fedadapt.datasets.partitioning.assign import Assignment, Skew, assign
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.sources.decode import Progress, decode
from fedadapt.datasets.sources.image_store import Store
from fedadapt.datasets.sources.official import read_digits, read_official

log = logging.getLogger(__name__)

_IMAGENET = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load_benchmark(config: RunConfig, progress: Progress | None = None) -> Benchmark:
    """Read the images and divide them among the clients, as the configuration says.

    The assignment is a function of the data, ``benchmark, partition, shift, quantity, imbalance,
    clients, unseen, split, adapt_share, test_share, examples, image_size`` and ``seed``.

    Args:
        progress: Called with (images done, images in all) while a folder is decoded.

    Raises:
        InputError: Bad words, missing or damaged files, too many clients: one line.

    """
    check(config)
    entry = find(config.benchmark)
    skew = Skew.of(config, entry)
    store = _read(config, entry, progress)
    assignment = assign(config, entry, skew, store)
    return StoredBenchmark(
        config.benchmark,
        store,
        assignment,
        skew.shift,
        config.image_size,
        config.seed,
        choose_scaling(config, store, assignment.clients.trained_on(assignment.unseen)),
        describe(config, entry, store, assignment),
    )


def _read(config: RunConfig, entry: Entry, progress: Progress | None) -> Store:
    if entry.built_in:
        return read_digits()
    if entry.is_folder:
        size = config.image_size or entry.image_size
        return decode(listing_of(entry, config.data_root), size, progress)
    return read_official(entry, config.data_root)


def choose_scaling(config: RunConfig, store: Store, trained_on: Rows) -> Scaling:
    """The input scaling that ``normalization`` asks for.

    Args:
        trained_on: The images federated training sees, [n]; ``data`` measures these, as stored.

    """
    channels = store.pixels.shape[1]
    choice = normalization_of(config)
    if config.normalization == "auto" and Path(config.weights).name == "base.safetensors":
        log.warning(  # a run writes a file of this name
            "normalization: ImageNet's, as weights are given; if they are those of a run, give "
            "that run's own (its default was: data)"
        )
    if choice == "symmetric":
        return Scaling((0.5,) * channels, (0.5,) * channels)
    if choice == "unit":
        return Scaling((0.0,) * channels, (1.0,) * channels)
    if choice == "imagenet":
        if channels == 3:
            return _IMAGENET
        return Scaling((sum(_IMAGENET.mean) / 3,), (sum(_IMAGENET.std) / 3,))
    return measure(store, trained_on)


def measure(store: Store, rows: Rows) -> MeasuredScaling:
    """Exact mean and standard deviation of each channel over the given images, of 0 to 1."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(store.pixels.shape[1]):
        counts = torch.zeros(256, dtype=torch.int64)
        for start in range(0, len(rows), 1024):
            some = torch.from_numpy(rows[start : start + 1024])
            counts += torch.bincount(store.pixels[some, channel].flatten(), minlength=256)
        share = counts.double() / counts.sum()
        mean = (share * levels).sum()
        variance = (share * (levels - mean) ** 2).sum()
        means.append(float(mean))
        stds.append(float(variance.sqrt()) or 1.0)  # a channel of one value stays as it is
    return MeasuredScaling(tuple(means), tuple(stds))


def describe(config: RunConfig, entry: Entry, store: Store, assignment: Assignment) -> Manifest:
    """The facts of an assignment and their hash; where the files lie is not among them."""
    train, adapt, test = (len(pile.images) for pile in assignment.clients.sets)
    everybody = assignment.global_test
    metadata: dict[str, object] = {
        "benchmark": "folder" if entry.name.startswith(FOLDER) else config.benchmark,
        "seed": config.seed,
        "clients": config.clients,
        "partition": config.partition or entry.partition,
        "shift": config.shift or entry.shift,
        "quantity": config.quantity or "even",
        "imbalance": config.imbalance or "none",
        "unseen": sorted(assignment.unseen),
        "adapt-share": config.adapt_share,
        "test-share": config.test_share,
        "examples": config.examples,
        "image-size": config.image_size or store.pixels.shape[2],
        "classes": list(store.classes),
        "domains": list(store.domains),
        "images": len(store.labels),
        "unreadable-images": store.unreadable,
        "content": store.digest(),
        "train-images": train,
        "adapt-images": adapt,
        "test-images": test,
        "global-test-images": 0 if everybody is None else len(everybody),
    }
    if split_of(entry, config) != "client":  # the rule there was first; old manifests stay
        metadata["split"] = split_of(entry, config)
    seen = sha256(json.dumps(metadata, sort_keys=True).encode())
    for numbers in assignment.clients.written_out():
        seen.update(numbers.data)
    if everybody is not None:
        seen.update(np.ascontiguousarray(everybody, dtype="<i8").data)
    return Manifest(seen.hexdigest(), metadata)
