"""``load_benchmark``: from the settings of a run to its clients' images."""

import json
import logging
from collections.abc import Mapping
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Benchmark, Manifest, MeasuredScaling, Scaling
from fedadapt.datasets.data_spec import DataSpec, check_data, resolved_normalization
from fedadapt.datasets.entries import CLIENTS, FOLDER, IMAGES, NPZ, SERIES
from fedadapt.datasets.in_memory import StoredBenchmark
from fedadapt.datasets.own.names import is_own
from fedadapt.datasets.own.rehearsal import load_rehearsal
from fedadapt.datasets.partitioning.assign import Assignment, assign
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.scalings import fixed_scaling_of
from fedadapt.datasets.sources.arrays import store_of_arrays
from fedadapt.datasets.sources.decode import Progress
from fedadapt.datasets.sources.files import data_root
from fedadapt.datasets.sources.image_store import Store, store_of
from fedadapt.datasets.sources.torch_dataset import store_of_dataset
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
    spec = spec.resolved(len(images.owners))
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
    if entry.is_ours:
        offered |= {"entry": entry, "image_size": spec.image_size, "progress": progress}
    takes = "root, seed and clients where it wants to"
    images = call_factory("benchmark", entry.name, reader, offered, takes)
    where = f"benchmark: {entry.name!r}"
    if isinstance(images, tuple) and len(images) in (2, 3):
        return store_of(where, *images)
    if isinstance(images, Mapping):
        return store_of_arrays(where, images)
    if isinstance(images, Dataset):
        return store_of_dataset(where, images)
    if isinstance(images, Store | Benchmark):
        return images
    raise InputError(
        f"{where} returned a {type(images).__name__}; it must return (images, labels), (images, "
        "labels, domains), a dict with x and y, a torch Dataset, a Store or a Benchmark"
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
    if store.vocabulary:
        return Scaling((), (), unit=1.0, trailing=0)
    if store.kind == SERIES:
        return _of_measurements(normalization, store, trained_on)
    channels = store.inputs.shape[1]
    choice = resolved_normalization(normalization, weights)
    if normalization == "auto" and Path(weights).name == "base.safetensors":  # as a run writes it
        log.warning(
            "normalization: ImageNet's, as weights are given; if they are those of a run, give "
            "that run's own (its default was: data)"
        )
    if choice == "data":
        return measure(store, trained_on)
    return fixed_scaling_of(choice, channels)


def _of_measurements(normalization: str, store: Store, trained_on: Rows) -> Scaling:
    """Mean 0 and deviation 1 of each channel, or values as they are with ``unit``."""
    channels, trailing = store.inputs.shape[1], store.inputs.dim() - 2
    if normalization == "unit":
        return Scaling((0.0,) * channels, (1.0,) * channels, 1.0, trailing)
    sums = torch.zeros(3, channels, dtype=torch.float64)  # of values' numbers, values and squares
    for start in range(0, len(trained_on), 1024):
        batch = store.inputs[torch.from_numpy(trained_on[start : start + 1024])].double()
        values = batch.transpose(0, 1).flatten(1)
        sums += torch.stack([torch.full((channels,), values.shape[1]), values.sum(1),
                             values.square().sum(1)])  # fmt: skip
    mean = sums[1] / sums[0]
    std = (sums[2] / sums[0] - mean.square()).clamp(min=0).sqrt()
    std[std < 1e-12] = 1.0  # a channel of one value stays as it is
    return MeasuredScaling(tuple(mean.tolist()), tuple(std.tolist()), 1.0, trailing)


def measure(store: Store, rows: Rows) -> MeasuredScaling:
    """Exact mean and standard deviation of each channel over the given images, of 0 to 1."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(store.inputs.shape[1]):
        counts = torch.zeros(256, dtype=torch.int64)
        for start in range(0, len(rows), 1024):
            batch = torch.from_numpy(rows[start : start + 1024])
            counts += torch.bincount(store.inputs[batch, channel].flatten(), minlength=256)
        share = counts.double() / counts.sum()
        mean = (share * levels).sum()
        variance = (share * (levels - mean) ** 2).sum()
        means.append(float(mean))
        stds.append(float(variance.sqrt()) or 1.0)  # a channel of one value stays as it is
    return MeasuredScaling(tuple(means), tuple(stds))


def _name(benchmark: str) -> str:
    """The name of a benchmark without the place of its files."""
    for prefix in (FOLDER, CLIENTS, NPZ):
        if benchmark.startswith(prefix):
            return prefix.rstrip(":")
    return benchmark


def _shape(spec: DataSpec, store: Store) -> dict[str, object]:
    """The size of an image, or the shape of another input."""
    if store.kind == IMAGES:
        return {"image-size": spec.image_size or store.inputs.shape[2]}
    words = {"vocabulary": store.vocabulary} if store.vocabulary else {}
    return {"input-shape": list(store.inputs.shape[1:]), **words}


def describe(spec: DataSpec, store: Store, assignment: Assignment) -> Manifest:
    """The facts of an assignment and their hash; the place of the files is not among them."""
    train, adapt, test = (len(indices.images) for indices in assignment.clients.sets)
    global_test = assignment.global_test
    metadata: dict[str, object] = {
        "benchmark": _name(spec.name),
        "seed": spec.seed,
        "clients": len(assignment.clients),
        **spec.written,
        "unseen": sorted(assignment.unseen),
        "adapt-share": spec.adapt_share,
        "test-share": spec.test_share,
        "examples": spec.examples,
        **_shape(spec, store),
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
    if assignment.owners is not None:
        metadata["owners"] = [store.owners[owner] for owner in assignment.owners]
        metadata["left-out-owners"] = assignment.left_out_owners
    if store.group_of is not None:
        metadata["groups"] = len(np.unique(store.group_of))
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
