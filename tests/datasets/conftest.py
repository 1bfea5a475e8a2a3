"""A data root for task-incremental benchmarks."""

import numpy as np
import pytest
from task_sets import images


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    """A data root with a small CIFAR-10, MNIST, USPS and SVHN."""
    folder = tmp_path_factory.mktemp("data")
    kinds = {"cifar10": (8, 3), "mnist": (28, 1), "usps": (16, 1), "svhn": (32, 3)}
    for seed, (name, (side, channels)) in enumerate(kinds.items()):
        (x, y), (v, w) = (images(n, side, channels, 2 * seed + n) for n in (600, 401))
        np.savez(folder / f"{name}.npz", x_train=x, y_train=y, x_test=v, y_test=w)
    return str(folder)
