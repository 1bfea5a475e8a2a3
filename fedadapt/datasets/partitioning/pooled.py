"""Cut each kind's images into train, adapt and test first, then share each part out.

This is how PFA's benchmarks are made (Liu et al. 2021, sec. 5.1): the sizes in its table 2 are
those of 60/20/20 by domain, then a fifth of each for each of the five clients.
"""

from itertools import pairwise
from math import ceil

import numpy as np

from fedadapt.config import RunConfig
from fedadapt.datasets.catalog import LEAST_IMAGES, split_of, too_many_clients
from fedadapt.datasets.entries import Entry
from fedadapt.datasets.partitioning.client_indices import SplitIndices
from fedadapt.datasets.partitioning.partition import kinds_of
from fedadapt.datasets.partitioning.spec import Partition
from fedadapt.datasets.partitioning.stratified import Rows, stratified_order, three_sizes
from fedadapt.datasets.sources.image_store import Store
from fedadapt.random_streams import stream


def pooled(
    config: RunConfig, entry: Entry, partition: Partition, store: Store, rows: Rows
) -> list[SplitIndices]:
    """Every client's three sets. No image is in two of them.

    Args:
        rows: The images to divide, [n]; tests are taken from the official test
            part where ``split=official``.

    Raises:
        InputError: A client would have less than one image of each set.

    """
    rng = stream(config.seed, "split")
    labels = store.labels
    most = _most(config, entry)

    def kinds(some: Rows) -> list[tuple[Rows, int]]:
        return kinds_of(some, labels, store.domain_of, partition, config.clients)

    def ordered(some: Rows) -> Rows:
        return some[stratified_order(labels[some], rng, evenly=True)]

    if split_of(entry, config) == "official":
        share = config.adapt_share / (1 - config.test_share)
        if entry.sizes and not config.examples:
            share = entry.sizes[1] / (entry.sizes[0] + entry.sizes[1])
        tests = [ordered(test) for test, _ in kinds(np.arange(store.num_train, len(labels)))]
        parts = [
            (*_two(ordered(train), share), test, num)
            for (train, num), test in zip(kinds(rows), tests, strict=True)
        ]
    else:
        parts = []
        for kind, num in kinds(rows):
            rest, test = _two(ordered(kind), config.test_share)
            train, adapt = _two(rest, config.adapt_share / (1 - config.test_share))
            parts.append((train, adapt, test, num))
    smallest = min(len(part) // num for *three, num in parts for part in three)
    if smallest < 1:
        fits = max(len(parts), min(len(part) for *three, _ in parts for part in three))
        raise too_many_clients(config.clients, min(fits, config.clients - 1), entry.name)
    return [
        SplitIndices(*three)
        for *pools, num in parts
        for three in zip(
            *(_shares(pool, num, cap) for pool, cap in zip(pools, most, strict=True)), strict=True
        )
    ]


def _most(config: RunConfig, entry: Entry) -> tuple[int | None, ...]:
    """At most so many train, adapt and test images a client; None: all there are."""
    if config.examples:
        return three_sizes(
            max(config.examples, LEAST_IMAGES), config.adapt_share, config.test_share
        )
    return entry.sizes or (None, None, None)


def _two(rows: Rows, share: float) -> tuple[Rows, Rows]:
    """The last ``share`` of the rows, rounded up, and what is before it."""
    cut = len(rows) - ceil(len(rows) * share - 1e-9)
    return rows[:cut], rows[cut:]


def _shares(pool: Rows, num: int, most: int | None) -> list[Rows]:
    """Equal stretches, the remainder to the last client; each cut to ``most``."""
    ends = [*(i * (len(pool) // num) for i in range(num)), len(pool)]
    return [pool[first:last][:most] for first, last in pairwise(ends)]
