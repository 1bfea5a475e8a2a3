"""Who holds which images: a function of the data, the words that describe the skew, the seed."""

from dataclasses import dataclass, replace

import numpy as np

from fedadapt.config import RunConfig
from fedadapt.datasets.catalog import check_partition, split_of
from fedadapt.datasets.entries import Entry
from fedadapt.datasets.feature_shift.shift import shift_kind
from fedadapt.datasets.partitioning.client_indices import ClientIndices, SplitIndices
from fedadapt.datasets.partitioning.partition import class_types, divide, groups
from fedadapt.datasets.partitioning.pooled import pooled
from fedadapt.datasets.partitioning.quantity import COMFORTABLE, long_tail, relative_sizes
from fedadapt.datasets.partitioning.sampling_pool import class_shares, draw_without_replacement
from fedadapt.datasets.partitioning.spec import (
    Partition,
    Rule,
    Shift,
    parse_imbalance,
    parse_partition,
    parse_quantity,
    parse_shift,
)
from fedadapt.datasets.partitioning.stratified import Rows, stratified_order, three_sizes
from fedadapt.datasets.sources.image_store import Store
from fedadapt.random_streams import stream

DIGITS_A_CLIENT = 80
"""Images of a client of the built-in benchmarks where ``examples`` does not say."""


@dataclass(frozen=True)
class Skew:
    """The four words of a run, read."""

    partition: Partition
    shift: Shift
    quantity: Rule
    imbalance: Rule

    @staticmethod
    def of(config: RunConfig, entry: Entry) -> "Skew":
        return Skew(
            parse_partition(config.partition or entry.partition),
            parse_shift(config.shift or entry.shift),
            parse_quantity(config.quantity),
            parse_imbalance(config.imbalance),
        )


@dataclass(frozen=True, eq=False)
class Assignment:
    """Numbers of images in the store; see ``Benchmark`` for what the parts are for."""

    clients: ClientIndices
    kinds: tuple[str, ...]
    unseen: frozenset[int]
    global_test: Rows | None


def assign(config: RunConfig, entry: Entry, skew: Skew, store: Store) -> Assignment:
    """Give every client its three sets; equal arguments give equal assignments."""
    entry = replace(entry, classes=len(store.classes), domains=len(store.domains))
    check_partition(entry, skew.partition, config.clients)  # the data may differ from the catalog
    if entry.built_in:
        pools = _pools(config, skew, store)
        clients = _drawn(config, skew, store, pools)
        everybody: Rows | None = _balanced(config, store, pools.test)
    else:
        clients = ClientIndices.of(_divided(config, entry, skew, store))
        official = np.arange(store.num_train, len(store.labels))
        everybody = _balanced(config, store, official) if len(official) else None
    kinds = _kinds(config, skew, store)
    return Assignment(clients, kinds, _unseen(config, kinds), everybody)


def _divided(config: RunConfig, entry: Entry, skew: Skew, store: Store) -> list[SplitIndices]:
    """The official images, divided: no image is on two clients."""
    labels = store.labels
    rows = long_tail(
        np.arange(store.num_train), labels, skew.imbalance, stream(config.seed, "long tail")
    )
    if split_of(entry, config) != "client":
        return pooled(config, entry, skew.partition, store, rows)
    clients = divide(
        rows,
        labels,
        store.domain_of,
        skew.partition,
        skew.quantity,
        config.clients,
        stream(config.seed, "partition"),
        config.benchmark,
    )
    rng = stream(config.seed, "split")
    return [_three(rows, config, labels, rng, config.examples) for rows in clients]


def _pools(config: RunConfig, skew: Skew, store: Store) -> SplitIndices:
    rng = stream(config.seed, "split")
    train, adapt, test = _three(np.arange(store.num_train), config, store.labels, rng)
    train, adapt = (
        long_tail(rows, store.labels, skew.imbalance, stream(config.seed, "long tail", part))
        for part, rows in enumerate((train, adapt))
    )
    return SplitIndices(train, adapt, test)


def _drawn(config: RunConfig, skew: Skew, store: Store, pools: SplitIndices) -> ClientIndices:
    rng = stream(config.seed, "partition")
    num = config.clients
    shares = class_shares(skew.partition.rule, num, len(store.classes), rng)
    most = config.examples or DIGITS_A_CLIENT
    least = min(most, COMFORTABLE)
    sizes = [
        three_sizes(max(least, round(most * size)), config.adapt_share, config.test_share)
        for size in relative_sizes(skew.quantity, num, rng)
    ]
    return draw_without_replacement(pools, store.labels, shares, sizes, rng)


def _three(
    rows: Rows, config: RunConfig, labels: Rows, rng: np.random.Generator, most: int = 0
) -> SplitIndices:
    """Cut images into train, adapt and test with equal class proportions."""
    order = rows[stratified_order(labels[rows], rng)][: most or None]
    num_train, num_adapt, _ = three_sizes(len(order), config.adapt_share, config.test_share)
    return SplitIndices(*np.split(order, [num_train, num_train + num_adapt]))


def _balanced(config: RunConfig, store: Store, rows: Rows) -> Rows | None:
    """Equally many images of every class, sorted; None where a class has none."""
    labels = store.labels[rows]
    least = int(np.bincount(labels, minlength=len(store.classes)).min())
    if least == 0:
        return None
    rng = stream(config.seed, "global test")
    chosen = [
        rng.choice(rows[labels == c], least, replace=False) for c in range(len(store.classes))
    ]
    return np.sort(np.concatenate(chosen))


def _kinds(config: RunConfig, skew: Skew, store: Store) -> tuple[str, ...]:
    """Domain or class set, then shift, joined by a slash."""
    num = config.clients
    names = [""] * num
    if skew.partition.by_domain:
        names = [store.domains[g] for g in groups(len(store.domains), num)]
    elif skew.partition.rule.name == "class-types":
        types = class_types(len(store.classes), skew.partition.rule)
        words = ["+".join(store.classes[c] for c in t) for t in types]
        short = [
            word if len(t) <= 3 else f"{store.classes[t[0]]}..{store.classes[t[-1]]}"
            for word, t in zip(words, types, strict=True)
        ]
        names = [short[g] for g in groups(len(types), num)]
    shifts = [shift_kind(skew.shift, d) for d in range(num)]
    return tuple(
        "/".join(filter(None, words)) or "all" for words in zip(names, shifts, strict=True)
    )


def _unseen(config: RunConfig, kinds: tuple[str, ...]) -> frozenset[int]:
    """A share of the clients, every kind in proportion; at least one, and one is left to train."""
    if config.unseen == 0:
        return frozenset()
    num = min(max(1, round(config.unseen * config.clients)), config.clients - 1)
    order = stratified_order(np.array(kinds), stream(config.seed, "unseen"))
    return frozenset(int(d) for d in order[:num])
