"""Limits of partitions and splits: what the data of a benchmark do not allow. No torch."""

from fedadapt.datasets.entries import NATURAL, DataEntry
from fedadapt.datasets.partitioning.label_skew import Iid
from fedadapt.datasets.partitioning.size_rules import Even, Quantity
from fedadapt.datasets.partitioning.spec import Partition
from fedadapt.errors import InputError

UNGROUPED = "ungrouped"
"""The split that ignores groups, to measure what their leak is worth."""
LEAST_IMAGES = 3
"""Images a client needs: one to train on, one to adapt to, one to be tested on."""


def check_partition(entry: DataEntry, partition: Partition, clients: int) -> None:
    """Refuse a partition that the classes and domains of the data do not allow."""
    if not entry.known:
        return
    if partition.natural:
        _check_natural(entry, clients)
        return
    if clients == 0:
        raise InputError("clients: 0 is for `flwr run`, where nodes can be counted; give a number")
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
    if partition.rule.classes_needed > entry.classes:
        raise InputError(
            f"partition: {partition.rule} asks for more than the {entry.classes} classes there are"
        )


def _check_natural(entry: DataEntry, clients: int) -> None:
    """Refuse data that belong to nobody, and more clients than there are."""
    if entry.owners and clients > entry.owners:
        raise InputError(
            f"clients: {clients} is more than the {entry.owners} that {entry.name} has; set "
            f"clients={entry.owners}, or 0 for all"
        )
    if not entry.owners and entry.partition != NATURAL:
        raise InputError(
            f"partition: natural; the images of {entry.name} belong to nobody: use a rule that "
            "divides them, such as dirichlet:0.3"
        )


def check_split(entry: DataEntry, split: str, partition: Partition, quantity: Quantity) -> None:
    """Refuse a split that the data or the partition do not allow.

    Args:
        split: ``client``, ``ungrouped``, ``pooled`` or ``official``.

    """
    if partition.natural and quantity != Even():
        raise InputError(
            f"quantity: {quantity}; with partition natural the sizes are the clients' own"
        )
    if split in ("client", UNGROUPED):
        return
    if partition.natural:
        raise InputError(
            f"split: {split}; every client has images of its own with partition natural: use client"
        )
    if entry.sampled:
        raise InputError(
            f"split: {split}; {entry.name} always has a pool of test images that its clients draw "
            "from: leave split=auto"
        )
    if split == "official" and (entry.is_folder or (entry.known and not entry.num_test)):
        raise InputError(f"split: official; {entry.name} has no test part of its own: use pooled")
    if not partition.rule.balanced or quantity != Even():
        raise InputError(
            f"split: {split} shares a kind's images out evenly: it goes with partition iid, "
            "by-domain or class-types:K and quantity even"
        )


def too_many_clients(clients: int, most: int, name: str) -> InputError:
    """Make the error for data that cannot give all the clients their images."""
    return InputError(f"clients: {clients} is more than {name} can serve; at most {most}")


def divided_by_flower(partition: Partition, quantity: Quantity) -> bool:
    """Whether flwr-datasets divides the images of a real data set."""
    if partition.natural:
        return False
    if partition.rule == Iid():
        return not partition.by_domain and quantity == Even()
    return partition.rule.needs_flower
