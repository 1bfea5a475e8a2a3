"""scikit-learn's digits, which come with the package."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fedadapt.datasets.sources.image_store import Store, make_store
from fedadapt.errors import InputError


def read_digits() -> Store:
    """Read scikit-learn's 1,797 digits, 8 x 8; there is no official test part.

    They are read from their file: importing scikit-learn takes seconds, and memory in each process.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise InputError(
            "scikit-learn: not installed; the digits come with it: pip install scikit-learn"
        )
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, np.int64, delimiter=",")  # 64 levels from 0 to 16, and the label
    pixels = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    nothing = (np.zeros((0, 8, 8), np.uint8), np.zeros(0, np.int64))
    return make_store("scikit-learn digits", (pixels, table[:, -1]), nothing)
