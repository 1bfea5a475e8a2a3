"""The natural partition: the data belong to their clients, such as persons, cameras or writers."""

import logging
from typing import NamedTuple

import numpy as np

from fedadapt.datasets.data_spec import DataSpec
from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.datasets.partitioning.whole_groups import LEAST_GROUPS
from fedadapt.datasets.sources.image_store import Store
from fedadapt.errors import InputError
from fedadapt.random_streams import stream

log = logging.getLogger(__name__)


class Owned(NamedTuple):
    """The clients of a natural partition."""

    rows: list[Rows]  # the inputs of each client
    owners: Rows  # which owner of the store each client is, ascending, [D]
    left_out: int  # owners with too few inputs, or too few groups, to be a client


def owned(spec: DataSpec, store: Store, rows: Rows, groups: Rows | None) -> Owned:
    """Give each owner its own inputs; where fewer clients are wanted, they are drawn by the seed.

    Args:
        rows: The inputs to divide, [n].
        groups: The group of each input of the store, [N]; None where each is by itself.

    Raises:
        InputError: The data belong to nobody, or to fewer than the clients that are wanted.

    """
    if store.owner_of is None:
        raise InputError(
            f"partition: natural; the images of {spec.name} belong to nobody: use a rule that "
            "divides them, such as dirichlet:0.3"
        )
    owner_of = store.owner_of[rows]
    each = [rows[owner_of == owner] for owner in range(len(store.owners))]
    sizes = [len(own) if groups is None else len(np.unique(groups[own])) for own in each]
    able = np.flatnonzero(np.array(sizes) >= LEAST_GROUPS)
    left_out = len(each) - len(able)
    what = "images" if groups is None else "groups"
    if spec.clients > len(able):
        others = f" ({left_out} more have fewer than {LEAST_GROUPS} {what})" if left_out else ""
        raise InputError(
            f"clients: {spec.clients} is more than the {len(able)} that {spec.name} has{others}; "
            f"set clients={len(able)}, or 0 for all"
        )
    if left_out:
        log.info("%d clients have fewer than %d %s and are left out", left_out, LEAST_GROUPS, what)
    wanted = spec.clients or len(able)
    if wanted < len(able):
        able = np.sort(stream(spec.seed, "owners").choice(able, wanted, replace=False))
    return Owned([each[owner] for owner in able], able, left_out)
