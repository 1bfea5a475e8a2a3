"""Small data sets for task-incremental benchmarks."""

import numpy as np

from fedadapt.config import RunConfig
from fedadapt.datasets.task_incremental.benchmark import TaskBenchmark
from fedadapt.datasets.task_incremental.load import load_tasks


def images(num: int, side: int, channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise, no two images alike; classes in turn."""
    shape = (num, side, side, channels)[: 3 + (channels > 1)]
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return pixels, np.arange(num) % 10


def load(root: str = "", **settings) -> TaskBenchmark:
    given = {"benchmark": "digits-tasks", "data_root": root, "clients": 5, **settings}
    return load_tasks(RunConfig(**given))
