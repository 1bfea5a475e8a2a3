"""A data set of Hugging Face with a column that says whose each example is.

``hf:NAME?client=COLUMN&label=COLUMN`` reads a data set of the hub, or one that
``Dataset.save_to_disk`` has written. Clients are numbered as flwr-datasets' NaturalIdPartitioner
numbers them.
"""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from fedadapt.datasets.entries import HUGGING_FACE, DataEntry
from fedadapt.datasets.sources.image_store import Store, store_of
from fedadapt.errors import InputError, nearest, need
from fedadapt.factories import reason_of

OPTIONS = ("client", "label", "input", "group", "split", "config")
INPUTS = ("image", "img", "x", "input", "tokens", "input_ids")
"""Names that the column of the inputs usually has."""
FORM = "hf:NAME?client=COLUMN&label=COLUMN"


def read_hugging_face(entry: DataEntry) -> Store:
    """Read the data set in ``hf:NAME?...``.

    Raises:
        InputError: It is not there, or it lacks a column.

    """
    name, options = parse_name(entry.name)
    where = f"benchmark: {entry.name!r}"
    need("flwr_datasets", "hf: data sets")
    dataset = _open(where, name, options)
    columns: dict[str, str] = {
        key: options[key] for key in ("client", "label", "group") if key in options
    }
    columns["input"] = options.get("input") or _input_of(where, dataset.column_names)
    for key, column in columns.items():
        if column not in dataset.column_names:
            raise InputError(
                f"{where}: has no column {column!r} for {key}"
                f"{nearest(column, dataset.column_names)}; it has {', '.join(dataset.column_names)}"
            )
    label = dataset.features[columns["label"]]
    return store_of(
        where,
        _inputs(where, dataset, columns["input"]),
        _words_or_numbers(dataset[columns["label"]][:]),
        clients=_owners(dataset, columns["client"]) if "client" in columns else None,
        groups=_words_or_numbers(dataset[columns["group"]][:]) if "group" in columns else None,
        classes=tuple(getattr(label, "names", None) or ()),
    )


def parse_name(benchmark: str) -> tuple[str, dict[str, str]]:
    """Read ``hf:NAME?client=COLUMN&label=COLUMN``.

    Raises:
        InputError: It names no data set, or an option is unknown or missing.

    """
    name, _, query = benchmark.removeprefix(HUGGING_FACE).partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for key, value in options.items():
        if key not in OPTIONS:
            raise InputError(
                f"benchmark: hf: unknown {key!r}{nearest(key, OPTIONS)}; known: "
                f"{', '.join(OPTIONS)}"
            )
        if not value:
            raise InputError(f"benchmark: hf: {key} names nothing; write {FORM}")
    if not name or "label" not in options:
        raise InputError(f"benchmark: {benchmark!r} is not of the form {FORM}")
    return name, options


def _open(where: str, name: str, options: dict[str, str]) -> Any:
    """The part of the data set that is used: ``split``, else ``train``, else the only one."""
    import datasets

    folder = Path(name).expanduser()
    try:
        if folder.is_dir():
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(name, options.get("config"))
    except Exception as error:  # the library raises anything for what it does not find
        raise InputError(f"{where}: cannot be opened ({reason_of(error)})") from None
    if isinstance(found, datasets.Dataset):
        if "split" in options:
            raise InputError(f"{where}: has one part; leave split out")
        return found
    split = options.get("split") or ("train" if "train" in found else next(iter(found)))
    if split not in found:
        raise InputError(f"{where}: has no split {split!r}; it has {', '.join(found)}")
    return found[split]


def _input_of(where: str, columns: list[str]) -> str:
    for name in INPUTS:
        if name in columns:
            return name
    raise InputError(f"{where}: say input=COLUMN; it has {', '.join(columns)}")


def _owners(dataset: Any, column: str) -> np.ndarray:
    """The number of the client of each example, [N], as flwr-datasets numbers clients."""
    from flwr_datasets.partitioner import NaturalIdPartitioner

    partitioner = NaturalIdPartitioner(partition_by=column)
    partitioner.dataset = dataset
    count = partitioner.num_partitions
    names = [str(partitioner.partition_id_to_natural_id[number]) for number in range(count)]
    number_of = {name: number for number, name in enumerate(names)}
    numbers = np.array([number_of[str(value)] for value in dataset[column][:]])
    return numbers if len(set(names)) < count else _names_in_order(names, numbers)


def _names_in_order(names: list[str], numbers: np.ndarray) -> np.ndarray:
    """Names instead of numbers where sorting the names keeps their order."""
    return np.array(names)[numbers] if names == sorted(names) else numbers


def _inputs(where: str, dataset: Any, column: str) -> np.ndarray:
    kind = _kind(dataset.features[column])
    values = [np.asarray(value, kind) for value in dataset.with_format("numpy")[column][:]]
    shapes = {value.shape for value in values}
    if len(shapes) != 1:
        raise InputError(f"{where}: inputs have {len(shapes)} shapes; they must have one")
    return np.stack(values)


def _words_or_numbers(values: Any) -> np.ndarray:
    array = np.asarray(values)
    return array if array.dtype.kind in "iu" else array.astype(str)


def _kind(feature: Any) -> str | None:
    """The type of a column's numbers as the data set declares it; None of pictures, which know."""
    while not hasattr(feature, "dtype") and hasattr(feature, "feature"):
        feature = feature.feature
    declared = getattr(feature, "dtype", "")
    return declared if declared.startswith(("int", "uint", "float")) else None
