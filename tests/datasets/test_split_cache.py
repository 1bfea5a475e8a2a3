"""The cache of images that are expensive to make."""

import torch

from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.datasets.split_cache import SplitCache


def split(num: int) -> Split:
    """Train and adapt images are the same ones, as on task-incremental benchmarks."""
    labels = torch.zeros(num, dtype=torch.int64)
    adapt, test = (Examples(torch.zeros(num, 1, 2, 5, dtype=torch.uint8), labels) for _ in "ab")
    return Split(adapt, adapt, test)


def test_a_split_is_made_once_while_there_is_room_and_each_time_afterwards():
    cache, made = SplitCache(100), []

    def get(key: str, num: int, keep: bool = True) -> Split:
        return cache.get(key, lambda: made.append(key) or split(num), keep=keep)

    assert get("small", 2) is get("small", 2)  # 40 bytes: two sets of two images of ten
    assert get("cheap", 1, keep=False) is not get("cheap", 1, keep=False)
    assert get("large", 4) is not get("large", 4)  # 80 bytes do not fit beside the 40
    assert get("exact", 3) is get("exact", 3)  # 60 do
    assert made == ["small", "cheap", "cheap", "large", "large", "exact"]
    assert get("one more", 1) is not get("one more", 1)
