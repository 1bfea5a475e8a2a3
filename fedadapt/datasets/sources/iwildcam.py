"""iWildCam by camera: every camera trap has a background of its own and its own animals.

Beery et al. 2020, "The iWildCam 2020 competition dataset". Cameras take pictures in bursts, which
are nearly the same and stay whole wherever the data are cut.
"""

import numpy as np

from fedadapt.datasets.entries import DataEntry
from fedadapt.datasets.sources.files import check_root
from fedadapt.datasets.sources.image_store import Store, store_of
from fedadapt.datasets.sources.npz import read_arrays
from fedadapt.errors import InputError

KEPT = 20  # classes; all others are one more


def read_iwildcam(entry: DataEntry, root: str) -> Store:
    """Read ``iwildcam.npz``: x uint8 [N, H, W, 3], y, client (camera) and group (burst).

    Raises:
        InputError: It is not there, or an array is missing.

    """
    path = check_root(entry.name, root) / entry.files[0]
    if not path.is_file():
        raise InputError(f"{path}: is not there; put x, y, client and group into that file")
    arrays = read_arrays(path, ("x", "y", "client", "group"))
    labels, classes = most_frequent(arrays["y"])
    return store_of(str(path), arrays["x"], labels, clients=arrays["client"],
                    groups=arrays["group"], classes=classes)  # fmt: skip


def most_frequent(labels: np.ndarray, kept: int = KEPT) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the most frequent labels from 0, frequent ones first, and all others as one more.

    Returns:
        Numbers [N], and the classes' names: the old numbers, and ``other`` where there is one.

    """
    values, positions, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    numbers = np.minimum(rank, kept)[positions.reshape(-1)]
    names = tuple(str(values[place]) for place in order[:kept])
    return numbers, names + (("other",) if len(order) > kept else ())
