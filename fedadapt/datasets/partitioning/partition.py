"""Divide a data set among clients: every image belongs to at most one of them."""

import warnings
from typing import Any

import numpy as np

from fedadapt.datasets.catalog import LEAST_IMAGES, need, too_many_clients
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
    num_clients: int,
    rng: np.random.Generator,
    name: str,
) -> list[Rows]:
    """Give each client its images.

    Label skew first, then quantity skew: the partition is made of all images, and each client then
    keeps its relative size of what it got. Only ``iid`` divides all the images unevenly.

    Args:
        rows: The images to divide, [n].
        labels: Of all images in the store, [N]; ``domains`` likewise, or None.
        name: Of the benchmark, for errors.

    Raises:
        InputError: The data cannot give every client the three images it needs.

    """
    if len(rows) < LEAST_IMAGES * num_clients:
        raise too_many_clients(num_clients, len(rows) // LEAST_IMAGES, name)
    rule = partition.rule
    if rule.name == "iid" and not partition.by_domain:
        clients = _iid(rows, quantity, num_clients, rng)
    else:
        clients = []
        for part, share in _domain_parts(
            rows, domains if partition.by_domain else None, num_clients
        ):
            clients += _by_label(part, labels, rule, share, rng)
        if quantity.name != "even":
            clients = thin(clients, labels, relative_sizes(quantity, num_clients, rng), rng)
    smallest = min(map(len, clients))
    if smallest < LEAST_IMAGES:
        # Sizes go with 1 / clients here, so the smallest one tells how many would do.
        most = max(1, num_clients * smallest // LEAST_IMAGES)
        raise too_many_clients(num_clients, most, f"{name} with {_text(rule)}")
    return clients


def kinds_of(
    rows: Rows, labels: Rows, domains: Rows | None, partition: Partition, num_clients: int
) -> list[tuple[Rows, int]]:
    """The images of each kind of client (domain, class type) and how many clients share them."""
    found = []
    for part, num in _domain_parts(rows, domains if partition.by_domain else None, num_clients):
        if partition.rule.name == "class-types":
            found += _class_parts(part, labels, partition.rule, num)
        else:
            found.append((part, num))
    return found


def groups(num_groups: int, num_clients: int) -> Rows:
    """The group of each client: neighbours together, groups equal to one client, [D]."""
    return np.arange(num_clients) * num_groups // num_clients


def class_types(num_classes: int, rule: Rule) -> list[Rows]:
    """Disjoint sets of K neighbouring classes; a remainder makes the first sets larger by one."""
    return np.array_split(np.arange(num_classes), max(1, num_classes // int(rule.value)))


def _iid(rows: Rows, quantity: Rule, num_clients: int, rng: np.random.Generator) -> list[Rows]:
    shuffled = rng.permutation(rows)
    if quantity.name == "even":
        return _load(_flower().IidPartitioner(num_clients), shuffled, np.zeros_like(rows))
    # The sizes of flwr-datasets' Linear-, Square- and ExponentialPartitioner, which refuse to work
    # where the smallest client would get nothing (100 clients, square, 60,000 images).
    sizes = relative_sizes(quantity, num_clients, rng)
    cuts = np.round(np.cumsum(sizes)[:-1] / sizes.sum() * len(rows)).astype(int)
    return top_up(np.split(shuffled, cuts), rng)


def _domain_parts(rows: Rows, domains: Rows | None, num_clients: int) -> list[tuple[Rows, int]]:
    """The images of each domain and how many clients share them."""
    if domains is None:
        return [(rows, num_clients)]
    counts = np.bincount(groups(int(domains.max()) + 1, num_clients))
    return [(rows[domains[rows] == g], int(n)) for g, n in enumerate(counts)]


def _class_parts(rows: Rows, labels: Rows, rule: Rule, num_clients: int) -> list[tuple[Rows, int]]:
    types = class_types(int(labels.max()) + 1, rule)
    counts = np.bincount(groups(len(types), num_clients), minlength=len(types))
    parts = [rows[np.isin(labels[rows], classes)] for classes in types]
    return [(part, int(n)) for part, n in zip(parts, counts, strict=True) if n]


def _by_label(
    rows: Rows, labels: Rows, rule: Rule, num_clients: int, rng: np.random.Generator
) -> list[Rows]:
    if rule.name == "iid":
        return _draw(rows, labels, num_clients, rng)
    if rule.name == "class-types":
        parts = _class_parts(rows, labels, rule, num_clients)
        return [drawn for part, n in parts for drawn in _draw(part, labels, n, rng)]
    partitioners = _flower()
    seed = int(rng.integers(2**31))
    common: dict[str, Any] = {"partition_by": "label", "seed": seed}
    if rule.name == "dirichlet":
        partitioner = partitioners.DirichletPartitioner(
            num_clients, alpha=rule.value, min_partition_size=0, **common
        )
    elif rule.name == "pathological":
        partitioner = partitioners.PathologicalPartitioner(
            num_clients,
            num_classes_per_partition=int(rule.value),
            class_assignment_mode="first-deterministic",  # so that no class is left out
            **common,
        )
    else:
        partitioner = partitioners.ShardPartitioner(
            num_clients, num_shards_per_partition=int(rule.value), **common
        )
    try:
        clients = _load(partitioner, rows, labels[rows])
    except ValueError as error:
        reason = str(error).split(". ")[0]
        raise InputError(
            f"partition: {_text(rule)} cannot divide {len(rows)} images among {num_clients} "
            f"clients ({reason}); use fewer clients"
        ) from None
    return top_up(clients, rng) if rule.name == "dirichlet" else clients


def _draw(rows: Rows, labels: Rows, num_clients: int, rng: np.random.Generator) -> list[Rows]:
    """Equal shares with equal classes: sorted by class, every n-th image goes to one client."""
    rows = rng.permutation(rows)
    order = rows[np.argsort(labels[rows], kind="stable")]
    return [order[d::num_clients] for d in range(num_clients)]


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
