"""Partitions that flwr-datasets makes."""

import warnings
from typing import Any

import numpy as np

from fedadapt.datasets.partitioning.stratified import Rows
from fedadapt.errors import InputError, need


def divide_by_label(
    partitioner: str,
    rule: object,
    rows: Rows,
    labels: Rows,
    num_clients: int,
    rng: np.random.Generator,
    **arguments: Any,
) -> list[Rows]:
    """Divide images with a partitioner of flwr-datasets that goes by the label.

    Args:
        partitioner: The name of its class.
        rule: The rule as it is written, for messages.
        rows: The images to divide, [n].
        labels: Labels of all images in the store, [N].
        arguments: The partitioner's own.

    Raises:
        InputError: The partitioner refuses the data.

    """
    make = getattr(_partitioners(), partitioner)
    seed = int(rng.integers(2**31))
    try:
        return _load(
            make(num_clients, partition_by="label", seed=seed, **arguments), rows, labels[rows]
        )
    except ValueError as error:
        reason = str(error).split(". ")[0]
        raise InputError(
            f"partition: {rule} cannot divide {len(rows)} images among {num_clients} "
            f"clients ({reason}); use fewer clients"
        ) from None


def divide_in_order(rows: Rows, num_clients: int) -> list[Rows]:
    """Divide images into equal stretches, in the order given."""
    return _load(_partitioners().IidPartitioner(num_clients), rows, np.zeros_like(rows))


def _partitioners() -> Any:
    need("flwr_datasets", "this partition")
    from flwr_datasets import partitioner

    return partitioner


def _load(partitioner: Any, rows: Rows, labels: Rows) -> list[Rows]:
    from datasets import Dataset

    partitioner.dataset = Dataset.from_dict({"row": rows, "label": labels})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on the partitioner's own parameters
        parts = [partitioner.load_partition(d) for d in range(partitioner.num_partitions)]
    return [np.asarray(part.with_format("numpy")["row"][:], dtype=np.int64) for part in parts]
