"""Which images each client holds: a function of the data, the rules of skew and the seed."""

from dataclasses import dataclass, replace

import numpy as np

from fedadapt.datasets.data_spec import DataSpec, check_kind
from fedadapt.datasets.partitioning.client_indices import ClientIndices, SplitIndices
from fedadapt.datasets.partitioning.domains import Domains, domains_of, domains_of_kinds
from fedadapt.datasets.partitioning.limits import UNGROUPED, check_partition, check_split
from fedadapt.datasets.partitioning.natural import owned
from fedadapt.datasets.partitioning.partition import divide, groups
from fedadapt.datasets.partitioning.pooled import pooled
from fedadapt.datasets.partitioning.quantity import COMFORTABLE, relative_sizes
from fedadapt.datasets.partitioning.sampling_pool import draw_without_replacement
from fedadapt.datasets.partitioning.server import drawn_for_server
from fedadapt.datasets.partitioning.stratified import Rows, stratified_order, three_sizes
from fedadapt.datasets.partitioning.whole_groups import (
    at_most,
    groups_of,
    representatives,
    three_sets_of_groups,
)
from fedadapt.datasets.sources.duplicates import Duplicates, find_duplicates, no_duplicates
from fedadapt.datasets.sources.image_store import Store
from fedadapt.errors import InputError
from fedadapt.random_streams import stream

DIGITS_A_CLIENT = 80
"""Images of a client of the built-in benchmarks where ``examples`` does not say."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """Image numbers in the store; see ``Benchmark`` for what the parts are for."""

    clients: ClientIndices
    kinds: tuple[str, ...]
    unseen: frozenset[int]
    global_test: Rows | None
    duplicates: Duplicates
    domains: Domains
    server: Rows  # images of the server, which no client has; [0] where there are none
    owners: Rows | None = None  # which owner of the store each client is, [D]
    left_out_owners: int = 0


def assign(spec: DataSpec, store: Store) -> Assignment:
    """Give every client its three sets; equal arguments give equal assignments.

    Args:
        spec: As ``DataSpec.resolved`` makes it once the data are open.

    """
    entry = replace(
        spec.entry,
        classes=len(store.classes),
        domains=len(store.domains),
        owners=len(store.owners),
        num_test=len(store) - store.num_train,
        known=True,
    )
    check_partition(entry, spec.partition, spec.clients)  # the data may differ from the table
    check_split(entry, spec.split, spec.partition, spec.quantity)
    check_kind(spec, store.kind)
    groups = None
    if not entry.sampled and spec.split != UNGROUPED:
        join = entry.joins_duplicates and spec.partition.natural
        groups = groups_of(store, join_identical=join)
    if spec.partition.natural or groups is not None:
        return _in_groups(spec, store, groups)
    global_test: Rows | None
    if entry.sampled:
        duplicates = no_duplicates(store)
        server, rows = _server(spec, store, np.arange(store.num_train))
        pools = _pools(spec, store, rows)
        clients = _drawn(spec, store, pools)
        global_test = _balanced(spec, store, pools.test)
    else:
        duplicates = find_duplicates(store) if entry.joins_duplicates else no_duplicates(store)
        train, official = np.split(
            duplicates.distinct, [np.searchsorted(duplicates.distinct, store.num_train)]
        )
        server, train = _server(spec, store, train)
        splits = _divided(spec, store, train, official)
        if not spec.examples and entry.sizes is None:  # no client is at a limit of its images
            splits = [duplicates.with_copies(split) for split in splits]
        clients = ClientIndices.of(splits)
        global_test = _balanced(spec, store, official) if len(official) else None
    kinds = _kinds(spec, store)
    domains = domains_of(spec.partition, spec.shift, store.domains, spec.clients)
    unseen = _unseen(spec, kinds)
    return Assignment(clients, kinds, unseen, global_test, duplicates, domains, server)


def _server(spec: DataSpec, store: Store, rows: Rows) -> tuple[Rows, Rows]:
    """The images of the server, and those that are left for the clients."""
    if not spec.server_share:
        return rows[:0], rows
    rng = stream(spec.seed, "server")
    return drawn_for_server(rows, store.labels, store.domain_of, spec.server_share, rng)


def _in_groups(spec: DataSpec, store: Store, groups: Rows | None) -> Assignment:
    """Divide whole groups, or leave them with their owners.

    Args:
        groups: The group of each input of the store, [N]; None where each is by itself.

    """
    if spec.server_share:
        raise InputError(
            f"server-share: the images of {spec.name} belong to their clients, or come in groups "
            "that stay whole; the server has none of them: leave it out"
        )
    if spec.split in ("pooled", "official"):
        raise InputError(
            f"split: {spec.split}; {spec.name} has groups of images that stay whole: use client"
        )
    labels = store.labels
    rows = spec.imbalance.choose(np.arange(store.num_train), labels, stream(spec.seed, "long tail"))
    owners, left_out = None, 0
    if spec.partition.natural:
        clients, owners, left_out = owned(spec, store, rows, groups)
    else:
        assert groups is not None  # ``assign``
        firsts, members = representatives(rows, groups)
        divided = _by_rules(spec, store, firsts)
        clients = [np.concatenate([members[int(row)] for row in part]) for part in divided]
    rng = stream(spec.seed, "split")
    splits = []
    for own in clients:
        if groups is None:
            splits.append(_three_sets(own, spec, labels, rng, spec.examples))
            continue
        split = three_sets_of_groups(own, groups, labels, spec.adapt_share, spec.test_share, rng)
        most = spec.examples or len(own)
        splits.append(at_most(split, labels, most, spec.adapt_share, spec.test_share, rng))
    if owners is None:
        kinds = _kinds(spec, store)
        domains = domains_of(spec.partition, spec.shift, store.domains, spec.clients)
    else:
        kinds = _kinds_of_owners(spec, store, clients)
        domains = domains_of_kinds(kinds)
    official = np.arange(store.num_train, len(store))
    return Assignment(
        ClientIndices.of(splits),
        kinds,
        _unseen(spec, kinds),
        _balanced(spec, store, official) if len(official) else None,
        no_duplicates(store),
        domains,
        rows[:0],
        owners,
        left_out,
    )


def _by_rules(spec: DataSpec, store: Store, rows: Rows) -> list[Rows]:
    """Divide images by the rules of label skew and of sizes."""
    return divide(
        rows,
        store.labels,
        store.domain_of,
        spec.partition,
        spec.quantity,
        spec.clients,
        stream(spec.seed, "partition"),
        spec.name,
    )


def _divided(spec: DataSpec, store: Store, train: Rows, official: Rows) -> list[SplitIndices]:
    """Divide the images: none is on two clients.

    Args:
        train: The images to divide, [n].
        official: The images of the official test part, [m]; may be empty.

    """
    labels = store.labels
    rows = spec.imbalance.choose(train, labels, stream(spec.seed, "long tail"))
    if spec.split not in ("client", UNGROUPED):
        return pooled(spec, store, rows, official)
    clients = _by_rules(spec, store, rows)
    rng = stream(spec.seed, "split")
    return [_three_sets(rows, spec, labels, rng, spec.examples) for rows in clients]


def _pools(spec: DataSpec, store: Store, rows: Rows) -> SplitIndices:
    """The images of ``rows`` that clients draw from, for each of their three sets."""
    rng = stream(spec.seed, "split")
    train, adapt, test = _three_sets(rows, spec, store.labels, rng)
    train, adapt = (
        spec.imbalance.choose(rows, store.labels, stream(spec.seed, "long tail", part))
        for part, rows in enumerate((train, adapt))
    )
    return SplitIndices(train, adapt, test)


def _drawn(spec: DataSpec, store: Store, pools: SplitIndices) -> ClientIndices:
    rng = stream(spec.seed, "partition")
    shares = spec.partition.rule.shares(spec.clients, len(store.classes), rng)
    most = spec.examples or DIGITS_A_CLIENT
    least = min(most, COMFORTABLE)
    sizes = [
        three_sizes(max(least, round(most * size)), spec.adapt_share, spec.test_share)
        for size in relative_sizes(spec.quantity, spec.clients, rng)
    ]
    return draw_without_replacement(pools, store.labels, shares, sizes, rng)


def _three_sets(
    rows: Rows, spec: DataSpec, labels: Rows, rng: np.random.Generator, most: int = 0
) -> SplitIndices:
    """Cut images into train, adapt and test with equal class proportions."""
    order = rows[stratified_order(labels[rows], rng)][: most or None]
    num_train, num_adapt, _ = three_sizes(len(order), spec.adapt_share, spec.test_share)
    return SplitIndices(*np.split(order, [num_train, num_train + num_adapt]))


def _balanced(spec: DataSpec, store: Store, rows: Rows) -> Rows | None:
    """Equally many images of every class, sorted; None where a class has none."""
    labels = store.labels[rows]
    least = int(np.bincount(labels, minlength=len(store.classes)).min())
    if least == 0:
        return None
    rng = stream(spec.seed, "global test")
    chosen = [
        rng.choice(rows[labels == c], least, replace=False) for c in range(len(store.classes))
    ]
    return np.sort(np.concatenate(chosen))


def _kinds(spec: DataSpec, store: Store) -> tuple[str, ...]:
    """Domain or class set, then shift, joined by a slash; one word per client."""
    num = spec.clients
    if spec.partition.by_domain:
        names = [store.domains[group] for group in groups(len(store.domains), num)]
    else:
        names = spec.partition.rule.kind_names(store.classes, num)
    return _with_shifts(spec, names)


def _kinds_of_owners(spec: DataSpec, store: Store, clients: list[Rows]) -> tuple[str, ...]:
    """The domain that most inputs of a client are of, where there are domains; then its shift."""
    names = [""] * len(clients)
    if store.domain_of is not None:
        names = [store.domains[np.bincount(store.domain_of[own]).argmax()] for own in clients]
    return _with_shifts(spec, names)


def _with_shifts(spec: DataSpec, names: list[str]) -> tuple[str, ...]:
    """One word a client: its name, then its shift."""
    changes = [spec.shift.change(client) for client in range(len(names))]
    return tuple(
        "/".join(filter(None, words)) or "all" for words in zip(names, changes, strict=True)
    )


def _unseen(spec: DataSpec, kinds: tuple[str, ...]) -> frozenset[int]:
    """A share of the clients, every kind in proportion; at least one, and one is left to train."""
    if spec.unseen == 0:
        return frozenset()
    num = min(max(1, round(spec.unseen * len(kinds))), len(kinds) - 1)
    order = stratified_order(np.array(kinds), stream(spec.seed, "unseen"))
    return frozenset(int(client) for client in order[:num])
