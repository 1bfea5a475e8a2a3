"""When a group is taken for two groups that look equally far from one reference."""

import numpy as np
import pytest

from fedadapt.server.clustering.ambiguity import is_aliased


def two_groups(gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Groups whose means are 10 apart; the clients of the first lie in two parts, ``gap`` apart."""
    parts = np.repeat([-gap / 2, gap / 2], 5)
    first = np.stack([np.zeros(10), parts], axis=1)
    second = np.stack([np.full(10, 10.0), np.tile([-0.01, 0.01], 5)], axis=1)
    return np.concatenate([first, second]), np.repeat([0, 1], 10)


@pytest.mark.parametrize("gap", [2.5, 4.8, 5.2, 9.0])
def test_a_group_is_ambiguous_from_half_the_distance_of_the_nearest_groups_on(gap):
    vectors, labels = two_groups(gap)
    assert is_aliased(vectors, labels, groups=2) is (gap >= 5)


def test_the_distance_is_that_of_the_nearest_groups():
    """A third group, far away, does not count."""
    vectors, labels = two_groups(5.2)
    far = np.stack([np.full(10, 100.0), np.tile([-0.01, 0.01], 5)], axis=1)
    vectors, labels = np.concatenate([vectors, far]), np.repeat([0, 1, 2], 10)
    assert is_aliased(vectors, labels, groups=3)
    assert not is_aliased(vectors * [1, 4.8 / 5.2], labels, groups=3)
