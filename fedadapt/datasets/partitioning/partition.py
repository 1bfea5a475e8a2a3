"""Divide a data set among clients: every image belongs to at most one of them."""

import numpy as np

from fedadapt.datasets.partitioning.label_skew import Iid
from fedadapt.datasets.partitioning.limits import LEAST_IMAGES, too_many_clients
from fedadapt.datasets.partitioning.quantity import relative_sizes, thin, top_up
from fedadapt.datasets.partitioning.size_rules import Even, Quantity
from fedadapt.datasets.partitioning.spec import Partition
from fedadapt.datasets.partitioning.stratified import Rows


def divide(
    rows: Rows,
    labels: Rows,
    domains: Rows | None,
    partition: Partition,
    quantity: Quantity,
    num_clients: int,
    rng: np.random.Generator,
    name: str,
) -> list[Rows]:
    """Give each client its images.

    Label skew comes first, then quantity skew: the partition is made of all images, and each client
    then keeps its relative size of its share. Only ``iid`` divides all the images unevenly.

    Args:
        rows: The images to divide, [n].
        labels: Labels of all images in the store, [N]; ``domains`` likewise, or None.
        name: The benchmark's name, for errors.

    Raises:
        InputError: The data cannot give every client the three images it needs.

    """
    if len(rows) < LEAST_IMAGES * num_clients:
        raise too_many_clients(num_clients, len(rows) // LEAST_IMAGES, name)
    rule = partition.rule
    if partition == Partition(False, Iid()):
        clients = _iid(rows, quantity, num_clients, rng)
    else:
        clients = []
        for part, num in _domain_parts(rows, domains if partition.by_domain else None, num_clients):
            clients += rule.divide(part, labels, num, rng)
        if quantity != Even():
            clients = thin(clients, labels, relative_sizes(quantity, num_clients, rng), rng)
    smallest = min(map(len, clients))
    if smallest < LEAST_IMAGES:
        # Sizes go with 1 / clients here, so the smallest one tells how many would do.
        most = max(1, num_clients * smallest // LEAST_IMAGES)
        raise too_many_clients(num_clients, most, f"{name} with {rule}")
    return clients


def kinds_of(
    rows: Rows, labels: Rows, domains: Rows | None, partition: Partition, num_clients: int
) -> list[tuple[Rows, int]]:
    """The images of each kind of client (domain, class type) and how many clients share them."""
    parts = _domain_parts(rows, domains if partition.by_domain else None, num_clients)
    return [kind for part, num in parts for kind in partition.rule.kinds(part, labels, num)]


def groups(num_groups: int, num_clients: int) -> Rows:
    """The group of each client: neighbours together, groups equal to one client, [D]."""
    return np.arange(num_clients) * num_groups // num_clients


def equal_shares(
    rows: Rows, labels: Rows, num_clients: int, rng: np.random.Generator
) -> list[Rows]:
    """Equal shares with equal classes: sorted by class, every n-th image goes to one client."""
    rows = rng.permutation(rows)
    order = rows[np.argsort(labels[rows], kind="stable")]
    return [order[d::num_clients] for d in range(num_clients)]


def _iid(rows: Rows, quantity: Quantity, num_clients: int, rng: np.random.Generator) -> list[Rows]:
    shuffled = rng.permutation(rows)
    if quantity == Even():
        from fedadapt.datasets.partitioning.by_flower import divide_in_order

        return divide_in_order(shuffled, num_clients)
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
