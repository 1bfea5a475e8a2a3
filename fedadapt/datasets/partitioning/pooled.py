"""Cut each kind's images into train, adapt and test first, then share each part out.

This is how PFA's benchmarks are made (Liu et al. 2021, sec. 5.1): the sizes in its table 2 are
those of 60/20/20 by domain, then a fifth of each for each of the five clients.
"""

from itertools import pairwise
from math import ceil

from fedadapt.datasets.data_spec import DataSpec
from fedadapt.datasets.partitioning.client_indices import SplitIndices
from fedadapt.datasets.partitioning.limits import LEAST_IMAGES, too_many_clients
from fedadapt.datasets.partitioning.partition import kinds_of
from fedadapt.datasets.partitioning.stratified import Rows, stratified_order, three_sizes
from fedadapt.datasets.sources.image_store import Store
from fedadapt.random_streams import stream


def pooled(spec: DataSpec, store: Store, rows: Rows, official: Rows) -> list[SplitIndices]:
    """Every client's three sets. No image is in two of them.

    Args:
        rows: The images to divide, [n].
        official: The images of the official test part, [m]: the tests where ``split=official``.

    Raises:
        InputError: A client would have less than one image of each set.

    """
    rng = stream(spec.seed, "split")
    labels = store.labels
    most = _most(spec)

    def kinds(images: Rows) -> list[tuple[Rows, int]]:
        return kinds_of(images, labels, store.domain_of, spec.partition, spec.clients)

    def ordered(images: Rows) -> Rows:
        return images[stratified_order(labels[images], rng, evenly=True)]

    if spec.split == "official":
        share = spec.adapt_share / (1 - spec.test_share)
        sizes = spec.entry.sizes
        if sizes and not spec.examples:
            share = sizes[1] / (sizes[0] + sizes[1])
        tests = [ordered(test) for test, _ in kinds(official)]
        parts = [
            (*_two(ordered(train), share), test, num)
            for (train, num), test in zip(kinds(rows), tests, strict=True)
        ]
    else:
        parts = []
        for kind, num in kinds(rows):
            rest, test = _two(ordered(kind), spec.test_share)
            train, adapt = _two(rest, spec.adapt_share / (1 - spec.test_share))
            parts.append((train, adapt, test, num))
    smallest = min(len(part) // num for *three, num in parts for part in three)
    if smallest < 1:
        fits = max(len(parts), min(len(part) for *three, _ in parts for part in three))
        raise too_many_clients(spec.clients, min(fits, spec.clients - 1), spec.name)
    return [
        SplitIndices(*three)
        for *pools, num in parts
        for three in zip(
            *(_shares(pool, num, cap) for pool, cap in zip(pools, most, strict=True)), strict=True
        )
    ]


def _most(spec: DataSpec) -> tuple[int | None, ...]:
    """At most so many train, adapt and test images a client; None: all there are."""
    if spec.examples:
        return three_sizes(max(spec.examples, LEAST_IMAGES), spec.adapt_share, spec.test_share)
    return spec.entry.sizes or (None, None, None)


def _two(rows: Rows, share: float) -> tuple[Rows, Rows]:
    """Split rows into all but the last ``share``, and the last ``share``, rounded up."""
    cut = len(rows) - ceil(len(rows) * share - 1e-9)
    return rows[:cut], rows[cut:]


def _shares(pool: Rows, num: int, most: int | None) -> list[Rows]:
    """Equal stretches, the remainder to the last client; each cut to ``most``."""
    ends = [*(i * (len(pool) // num) for i in range(num)), len(pool)]
    return [pool[first:last][:most] for first, last in pairwise(ends)]
