"""Domains that can be told by name: of the data set's folders, of the shifts, or of both."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedadapt.datasets.feature_shift.spec import Shift
from fedadapt.datasets.partitioning.partition import equal_shares, groups
from fedadapt.datasets.partitioning.spec import Partition
from fedadapt.datasets.partitioning.stratified import Rows


class AlikeImages(NamedTuple):
    """Images that are changed in one way."""

    rows: Rows  # of the store, [n]
    like_client: int  # whose shift they get
    domains: Rows  # of each, [n]


@dataclass(frozen=True)
class Domains:
    """The domains of a benchmark, and whose images are of which."""

    names: tuple[str, ...]  # () where there are fewer than two
    of_client: tuple[int, ...]  # 0 where there are none
    by_domain: bool  # whether the data set's own domains are among them
    num_changes: int  # of the shifts that clients get in turn; 1 without a shift

    def of_images(self, rows: Rows, labels: Rows, domain_of: Rows | None) -> Iterator[AlikeImages]:
        """Spread images of no client over the shifts, each of which gets all classes alike.

        Args:
            rows: The images, [n]; nothing is made of none.
            labels: Labels of all images in the store, [N]; ``domain_of`` their domains, or None.

        """
        if not len(rows):
            return
        own = domain_of if self.by_domain and domain_of is not None else np.zeros_like(labels)
        cells = labels + (int(labels.max()) + 1) * own
        in_order = np.random.default_rng(0)  # the images were drawn at random already
        shares = equal_shares(rows, cells, self.num_changes, in_order)
        for change, part in enumerate(shares):
            yield AlikeImages(part, change, own[part] * self.num_changes + change)


def domains_of(
    partition: Partition, shift: Shift, names: tuple[str, ...], num_clients: int
) -> Domains:
    """Name the domains: those of the data set where it is divided by them, times the shifts.

    Args:
        names: Of the data set's own domains.

    """
    by_domain, changes = partition.by_domain and len(names) > 0, shift.changes
    own = names if by_domain else ("",)
    words = tuple("/".join(filter(None, (name, change))) for name in own for change in changes)
    if len(words) < 2:
        return Domains((), (0,) * num_clients, by_domain, len(changes))
    group = groups(len(own), num_clients)
    of_client = tuple(int(group[d]) * len(changes) + d % len(changes) for d in range(num_clients))
    return Domains(words, of_client, by_domain, len(changes))


def domains_of_kinds(kinds: tuple[str, ...]) -> Domains:
    """Name the domains of clients whose data are their own: their kinds, where they differ."""
    names = tuple(sorted(set(kinds)))
    if len(names) < 2:
        return Domains((), (0,) * len(kinds), False, 1)
    return Domains(names, tuple(names.index(kind) for kind in kinds), False, 1)
