"""Divide a data set among devices: every image belongs to at most one of them."""

import warnings
from typing import Any

import numpy as np

from fedadapt.datasets.catalog import LEAST_IMAGES, need, too_many_devices
from fedadapt.datasets.partitioning.quantity import relative_sizes, thin, top_up
from fedadapt.datasets.partitioning.spec import Partition, Rule
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.errors import InputError


def divide(
    rows: Rows,
    labels: Rows,
    domains: Rows | None,
    partition: Partition,
    quantity: Rule,
    num_devices: int,
    rng: np.random.Generator,
    name: str,
) -> list[Rows]:
    """Give each device its images.

    Label skew first, then quantity skew: the partition is made of all images, and each device then
    keeps its relative size of what it got. Only ``iid`` divides all the images unevenly.

    Args:
        rows: The images to divide, [n].
        labels: Of all images in the store, [N]; ``domains`` likewise, or None.
        name: Of the benchmark, for errors.

    Raises:
        InputError: The data cannot give every device the three images it needs.

    """
    if len(rows) < LEAST_IMAGES * num_devices:
        raise too_many_devices(num_devices, len(rows) // LEAST_IMAGES, name)
    rule = partition.rule
    if rule.name == "iid" and not partition.by_domain:
        devices = _iid(rows, quantity, num_devices, rng)
    else:
        devices = []
        for part, share in _domain_parts(
            rows, domains if partition.by_domain else None, num_devices
        ):
            devices += _by_label(part, labels, rule, share, rng)
        if quantity.name != "even":
            devices = thin(devices, labels, relative_sizes(quantity, num_devices, rng), rng)
    smallest = min(map(len, devices))
    if smallest < LEAST_IMAGES:
        # Sizes go with 1 / devices here, so the smallest one tells how many would do.
        most = max(1, num_devices * smallest // LEAST_IMAGES)
        raise too_many_devices(num_devices, most, f"{name} with {_text(rule)}")
    return devices


def kinds_of(
    rows: Rows, labels: Rows, domains: Rows | None, partition: Partition, num_devices: int
) -> list[tuple[Rows, int]]:
    """The images of each kind of device (domain, class type) and how many devices share them."""
    found = []
    for part, num in _domain_parts(rows, domains if partition.by_domain else None, num_devices):
        if partition.rule.name == "class-types":
            found += _class_parts(part, labels, partition.rule, num)
        else:
            found.append((part, num))
    return found


def groups(num_groups: int, num_devices: int) -> Rows:
    """The group of each device: neighbours together, groups equal to one device, [D]."""
    return np.arange(num_devices) * num_groups // num_devices


def class_types(num_classes: int, rule: Rule) -> list[Rows]:
    """Disjoint sets of K neighbouring classes; a remainder makes the first sets larger by one."""
    return np.array_split(np.arange(num_classes), max(1, num_classes // int(rule.value)))


def _iid(rows: Rows, quantity: Rule, num_devices: int, rng: np.random.Generator) -> list[Rows]:
    shuffled = rng.permutation(rows)
    if quantity.name == "even":
        return _load(_flower().IidPartitioner(num_devices), shuffled, np.zeros_like(rows))
    # The sizes of flwr-datasets' Linear-, Square- and ExponentialPartitioner, which refuse to work
    # where the smallest device would get nothing (100 devices, square, 60,000 images).
    sizes = relative_sizes(quantity, num_devices, rng)
    cuts = np.round(np.cumsum(sizes)[:-1] / sizes.sum() * len(rows)).astype(int)
    return top_up(np.split(shuffled, cuts), rng)


def _domain_parts(rows: Rows, domains: Rows | None, num_devices: int) -> list[tuple[Rows, int]]:
    """The images of each domain and how many devices share them."""
    if domains is None:
        return [(rows, num_devices)]
    counts = np.bincount(groups(int(domains.max()) + 1, num_devices))
    return [(rows[domains[rows] == g], int(n)) for g, n in enumerate(counts)]


def _class_parts(rows: Rows, labels: Rows, rule: Rule, num_devices: int) -> list[tuple[Rows, int]]:
    types = class_types(int(labels.max()) + 1, rule)
    counts = np.bincount(groups(len(types), num_devices), minlength=len(types))
    parts = [rows[np.isin(labels[rows], classes)] for classes in types]
    return [(part, int(n)) for part, n in zip(parts, counts, strict=True) if n]


def _by_label(
    rows: Rows, labels: Rows, rule: Rule, num_devices: int, rng: np.random.Generator
) -> list[Rows]:
    if rule.name == "iid":
        return _deal(rows, labels, num_devices, rng)
    if rule.name == "class-types":
        parts = _class_parts(rows, labels, rule, num_devices)
        return [dealt for part, n in parts for dealt in _deal(part, labels, n, rng)]
    partitioners = _flower()
    seed = int(rng.integers(2**31))
    common: dict[str, Any] = {"partition_by": "label", "seed": seed}
    if rule.name == "dirichlet":
        partitioner = partitioners.DirichletPartitioner(
            num_devices, alpha=rule.value, min_partition_size=0, **common
        )
    elif rule.name == "pathological":
        partitioner = partitioners.PathologicalPartitioner(
            num_devices,
            num_classes_per_partition=int(rule.value),
            class_assignment_mode="first-deterministic",  # so that no class is left out
            **common,
        )
    else:
        partitioner = partitioners.ShardPartitioner(
            num_devices, num_shards_per_partition=int(rule.value), **common
        )
    try:
        devices = _load(partitioner, rows, labels[rows])
    except ValueError as error:
        reason = str(error).split(". ")[0]
        raise InputError(
            f"partition: {_text(rule)} cannot divide {len(rows)} images among {num_devices} "
            f"devices ({reason}); use fewer devices"
        ) from None
    return top_up(devices, rng) if rule.name == "dirichlet" else devices


def _deal(rows: Rows, labels: Rows, num_devices: int, rng: np.random.Generator) -> list[Rows]:
    """Equal shares with equal classes: sorted by class, every n-th image goes to one device."""
    rows = rng.permutation(rows)
    order = rows[np.argsort(labels[rows], kind="stable")]
    return [order[d::num_devices] for d in range(num_devices)]


def _flower() -> Any:
    need("flwr_datasets", "this partition")
    from flwr_datasets import partitioner

    return partitioner


def _load(partitioner: Any, rows: Rows, labels: Rows) -> list[Rows]:
    """What one of flwr-datasets' partitioners makes of the rows."""
    from datasets import Dataset

    partitioner.dataset = Dataset.from_dict({"row": rows, "label": labels})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on its own parameters
        parts = [partitioner.load_partition(d) for d in range(partitioner.num_partitions)]
    return [np.asarray(part.with_format("numpy")["row"][:], dtype=np.int64) for part in parts]


def _text(rule: Rule) -> str:
    return f"{rule.name}:{rule.value:g}" if rule.value else rule.name
