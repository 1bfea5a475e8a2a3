"""Any ``torch.utils.data.Dataset``: its items are read once, in order."""

from collections.abc import Sized
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from fedadapt.datasets.sources.image_store import Store, store_of
from fedadapt.errors import InputError
from fedadapt.factories import reason_of

ITEMS = "(input, label), (input, label, client) or (input, label, client, group)"


def store_of_dataset(where: str, dataset: Dataset[Any]) -> Store:
    """Read a data set whose items are (input, label), with client and group where it knows them.

    An input is an image (a Pillow image, or uint8 [C, H, W] or [H, W]), a tensor of real numbers,
    or a sequence of tokens (whole numbers [T]). All have one shape. Leave normalisation to the run.
    The attribute ``classes`` names the classes, where there is one.

    Raises:
        InputError: An item fails, or is not what it must be.

    """
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        raise InputError(f"{where}: is a data set without a length; its items must be numbered")
    items = [_item(where, dataset, number) for number in range(len(dataset))]
    if not items:
        raise InputError(f"{where}: is an empty data set")
    width = len(items[0])
    shape = items[0][0].shape
    for number, item in enumerate(items):
        if len(item) != width or item[0].shape != shape:
            raise InputError(
                f"{where}: item {number} is {len(item)} values with an input of "
                f"{list(item[0].shape)}, item 0 {width} with {list(shape)}; all must be alike"
            )
    columns = [np.asarray([item[column] for item in items]) for column in range(1, width)]
    return store_of(
        where,
        np.stack([item[0] for item in items]),
        columns[0],
        clients=columns[1] if width > 2 else None,
        groups=columns[2] if width > 3 else None,
        classes=[] if columns[0].dtype.kind == "U" else getattr(dataset, "classes", ()),
    )


def _item(where: str, dataset: Dataset[Any], number: int) -> tuple[Any, ...]:
    try:
        item = dataset[number]
    except Exception as error:  # a user's data set may raise anything
        raise InputError(f"{where}: item {number} failed ({reason_of(error)})") from error
    if not isinstance(item, tuple | list) or not 2 <= len(item) <= 4:
        raise InputError(
            f"{where}: item {number} is a {type(item).__name__}; items must be {ITEMS}"
        )
    value, *others = item
    array = np.asarray(value)
    if isinstance(value, Tensor) and array.dtype == np.uint8 and array.ndim == 3:
        array = array.transpose(1, 2, 0)  # torch has the channels first
    return (array, *(other.item() if isinstance(other, Tensor) else other for other in others))
