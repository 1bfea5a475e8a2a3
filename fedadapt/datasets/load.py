"""``load_benchmark``: from the settings of a run to its clients' images."""

import json
import logging
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark, Manifest, MeasuredScaling, Scaling
from fedadapt.datasets.data_spec import DataSpec, check_data, resolved_normalization
from fedadapt.datasets.entries import FOLDER
from fedadapt.datasets.in_memory import StoredBenchmark
from fedadapt.datasets.own.names import is_own
from fedadapt.datasets.own.rehearsal import load_rehearsal
from fedadapt.datasets.partitioning.assign import Assignment, assign
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.scalings import fixed_scaling_of
from fedadapt.datasets.sources.decode import Progress
from fedadapt.datasets.sources.files import data_root
from fedadapt.datasets.sources.image_store import Store, store_of
from fedadapt.errors import InputError
from fedadapt.factories import call_factory
from fedadapt.registry import import_named

log = logging.getLogger(__name__)

_NOT_OF_A_FINISHED_BENCHMARK = (
    "partition", "shift", "quantity", "imbalance", "unseen", "split", "adapt_share", "test_share",
    "examples", "server_share", "image_size", "normalization",
)  # fmt: skip


def load_benchmark(config: RunConfig, progress: Progress | None = None) -> Benchmark:
    """Read the images and divide them among the clients, as the configuration says.

    The assignment is a function of the data, ``benchmark, partition, shift, quantity, imbalance,
    clients, unseen, split, adapt_share, test_share, examples, server_share, image_size`` and
    ``seed``.

    Args:
        progress: Called with (images done, images in all) while a folder is decoded.

    Raises:
        InputError: Bad words, missing or damaged files, too many clients: one line.

    """
    if is_own(config.benchmark):
        return load_rehearsal(config)
    spec = check_data(config)
    images = read_images(spec, progress)
    if isinstance(images, Benchmark):
        _check_finished(config, images)
        return images
    assignment = assign(spec, images)
    return StoredBenchmark(
        spec.name,
        images,
        assignment,
        spec.shift,
        spec.image_size,
        spec.seed,
        choose_scaling(
            spec.normalization,
            spec.weights,
            images,
            assignment.clients.trained_on(assignment.unseen),
        ),
        describe(spec, images, assignment),
    )


def read_images(spec: DataSpec, progress: Progress | None = None) -> Store | Benchmark:
    """Call the reader of a benchmark, ours or a user's.

    Raises:
        InputError: The reader fails, or returns something else than images or a benchmark.

    """
    entry = spec.entry
    reader = import_named("benchmark", entry.name, entry.reader)
    offered: dict[str, Any] = {
        "root": str(data_root(spec.root) or ""),
        "seed": spec.seed,
        "clients": spec.clients,
    }
    if entry.known:
        offered |= {"entry": entry, "image_size": spec.image_size, "progress": progress}
    takes = "root, seed and clients where it wants to"
    images = call_factory("benchmark", entry.name, reader, offered, takes)
    if isinstance(images, tuple) and len(images) in (2, 3):
        return store_of(f"benchmark: {entry.name!r}", *images)
    if isinstance(images, Store | Benchmark):
        return images
    raise InputError(
        f"benchmark: {entry.name!r} returned a {type(images).__name__}; it must return (images, "
        "labels), (images, labels, domains), a Store or a Benchmark"
    )


def _check_finished(config: RunConfig, benchmark: Benchmark) -> None:
    """Refuse settings that a benchmark that is already divided does not use.

    Raises:
        InputError: Such a setting is given, or the number of clients differs.

    """
    defaults = {f.name: f.default for f in fields(RunConfig)}
    for key in _NOT_OF_A_FINISHED_BENCHMARK:
        if getattr(config, key) != defaults[key]:
            raise InputError(
                f"{key.replace('_', '-')}: {config.benchmark} does not use it, its clients are "
                "already made; leave it out"
            )
    if benchmark.num_clients != config.clients:
        raise InputError(
            f"clients: {config.clients}; {config.benchmark} made {benchmark.num_clients}: set "
            f"clients={benchmark.num_clients}"
        )


def choose_scaling(normalization: str, weights: str, store: Store, trained_on: Rows) -> Scaling:
    """The input scaling a network expects; ``auto``: ImageNet's with its weights, else the data's.

    Args:
        normalization: ``auto``, ``data``, ``imagenet``, ``symmetric`` or ``unit``.
        weights: The network's initial weights as they were given.
        trained_on: The images federated training uses, [n]; ``data`` measures these, before any
            shift.

    """
    channels = store.pixels.shape[1]
    choice = resolved_normalization(normalization, weights)
    if normalization == "auto" and Path(weights).name == "base.safetensors":  # as a run writes it
        log.warning(
            "normalization: ImageNet's, as weights are given; if they are those of a run, give "
            "that run's own (its default was: data)"
        )
    if choice == "data":
        return measure(store, trained_on)
    return fixed_scaling_of(choice, channels)


def measure(store: Store, rows: Rows) -> MeasuredScaling:
    """Exact mean and standard deviation of each channel over the given images, of 0 to 1."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(store.pixels.shape[1]):
        counts = torch.zeros(256, dtype=torch.int64)
        for start in range(0, len(rows), 1024):
            batch = torch.from_numpy(rows[start : start + 1024])
            counts += torch.bincount(store.pixels[batch, channel].flatten(), minlength=256)
        share = counts.double() / counts.sum()
        mean = (share * levels).sum()
        variance = (share * (levels - mean) ** 2).sum()
        means.append(float(mean))
        stds.append(float(variance.sqrt()) or 1.0)  # a channel of one value stays as it is
    return MeasuredScaling(tuple(means), tuple(stds))


def describe(spec: DataSpec, store: Store, assignment: Assignment) -> Manifest:
    """The facts of an assignment and their hash; the place of the files is not among them."""
    train, adapt, test = (len(indices.images) for indices in assignment.clients.sets)
    global_test = assignment.global_test
    metadata: dict[str, object] = {
        "benchmark": "folder" if spec.name.startswith(FOLDER) else spec.name,
        "seed": spec.seed,
        "clients": spec.clients,
        **spec.written,
        "unseen": sorted(assignment.unseen),
        "adapt-share": spec.adapt_share,
        "test-share": spec.test_share,
        "examples": spec.examples,
        "image-size": spec.image_size or store.pixels.shape[2],
        "classes": list(store.classes),
        "domains": list(store.domains),
        "images": len(store),
        "unreadable-images": store.unreadable,
        "content": store.digest(),
        "train-images": train,
        "adapt-images": adapt,
        "test-images": test,
        "global-test-images": 0 if global_test is None else len(global_test),
        **assignment.duplicates.metadata,
    }
    if spec.split != "client":  # the first rule there was; the manifests of older runs stay true
        metadata["split"] = spec.split
    if spec.server_share:
        metadata["server-share"] = spec.server_share
        metadata["server-images"] = len(assignment.server)
    digest = sha256(json.dumps(metadata, sort_keys=True).encode())
    for numbers in assignment.clients.flattened():
        digest.update(numbers.data)
    if global_test is not None:
        digest.update(np.ascontiguousarray(global_test, dtype="<i8").data)
    digest.update(np.ascontiguousarray(assignment.server, dtype="<i8").data)
    return Manifest(digest.hexdigest(), metadata)
