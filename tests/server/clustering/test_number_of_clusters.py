"""How many groups are found where the answer is known: nested, one, two, in any number."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from fedadapt.server.clustering.ambiguity import is_aliased
from fedadapt.server.clustering.grouping import group_clients
from fedadapt.server.clustering.number_of_clusters import code_length, independent, shortest

METHODS = ["efficient", "exact"]


def blobs(centres: Tensor, each: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """``each`` clients around every centre [G, q]."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(len(centres)).repeat_interleave(each)
    noise = torch.randn(len(truth), centres.shape[1], generator=generator, dtype=torch.float64)
    return centres.double()[truth] + spread * noise, truth


def corners(number: int, channels: int = 30) -> Tensor:
    """All equally far from each other: sqrt(2)."""
    return torch.eye(channels)[:number]


def nested() -> Tensor:
    """Two kinds of animals and three of vehicles: 0.5 apart, and 5 from one sort to the other."""
    centres = 0.5 / math.sqrt(2) * corners(5)
    centres[2:, 29] = 5.0
    return centres


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_of_nested_kinds_the_finest_are_found(method, seed):
    """Silhouette has two groups here."""
    vectors, truth = blobs(nested(), 5, 0.02, seed)
    assert adjusted_rand_score(truth, group_clients(vectors, method=method).labels) == 1.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(10))
def test_one_blob_is_one_group(method, seed):
    vectors, _ = blobs(corners(1), 25, 0.1, seed)
    assert group_clients(vectors, method=method).num_groups == 1


def test_channels_that_repeat_each_other_are_no_further_evidence():
    """Thirty copies of one channel: a bell curve is not many groups, however often it is told."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(20):
        told = torch.randn(40, 1, generator=generator, dtype=torch.float64).expand(40, 30)
        found.append(group_clients(told, method="exact").num_groups)
    assert np.median(found) == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [2, 3, 5, 8])
@pytest.mark.parametrize("each", [2, 5, 20])
def test_as_many_groups_as_there_are_blobs(method, number, each):
    vectors, truth = blobs(corners(number), each, 0.02, seed=number)
    assert adjusted_rand_score(truth, group_clients(vectors, method=method).labels) == 1.0


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("groups", [None, 5])
def test_one_reference_client_never_mixes_kinds_of_two_clients(groups, seed):
    """Two equally far from both references would be a group, of four."""
    generator = torch.Generator().manual_seed(seed)
    vectors, truth = blobs(torch.rand(5, 30, generator=generator), 2, 0.02, seed)
    found = group_clients(vectors, groups=groups, method="efficient")
    assert adjusted_rand_score(truth, found.labels) == 1.0


def test_the_length_of_two_groups_by_hand():
    """Four numbers, two at 0 +- 1 and two at 10 +- 1: one variance of 4 / (4 - 2) in each group."""
    vectors, labels = np.array([[-1.0], [1], [9], [11]]), np.array([0, 0, 1, 1])
    expected = 4 / 2 * math.log(2) + 4 * math.log(2) + 3 / 2 * math.log(4)
    assert code_length(vectors, labels, 1.0) == pytest.approx(expected)
    together = 4 / 2 * math.log(104 / 3) + 2 / 2 * math.log(4)
    assert code_length(vectors, np.zeros(4, dtype=np.int64), 1.0) == pytest.approx(together)


def test_independent_numbers_are_counted():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 500)
    alone = generator.normal(size=(1000, 8)) + 100 * labels[:, None]
    assert independent(alone, labels) == pytest.approx(8, rel=0.05)
    assert independent(np.repeat(alone[:, :2], 4, axis=1), labels) == pytest.approx(2, rel=0.05)
    few = [independent(generator.normal(size=(8, 30)), np.zeros(8, np.int64)) for _ in range(200)]
    assert np.median(few) == pytest.approx(30, rel=0.2)  # without the correction about 6


def test_groups_without_any_scatter_are_not_divided_further():
    vectors = np.repeat(np.eye(3), 4, axis=0)
    true, finer = np.repeat([0, 1, 2], 4), np.repeat(np.arange(6), 2)
    assert shortest(vectors, [np.zeros(12, dtype=np.int64), true, finer]) == 1


@pytest.mark.parametrize("seed", [13, 145, 351, 475, 486, 505, 906, 1074, 1107, 1114])
def test_a_second_reference_client_tells_apart_what_one_mixes_up(seed):
    """Kinds of two or three clients: too few for a group to be seen to fall apart."""
    generator = np.random.default_rng(seed)
    number, channels = int(generator.integers(3, 6)), int(generator.integers(2, 4))
    truth = np.repeat(np.arange(number), generator.integers(2, 4, number))
    centres = generator.random((number, channels))
    noise = 0.01 * generator.normal(size=(len(truth), channels))
    found = group_clients(torch.from_numpy(centres[truth] + noise), groups=number)
    assert found.aliased
    assert adjusted_rand_score(truth, found.labels) == 1.0


def test_a_group_of_two_kinds_falls_apart():
    vectors, truth = blobs(corners(3), 5, 0.02, seed=0)
    mixed = np.minimum(truth.numpy(), 1)
    assert is_aliased(vectors.numpy(), mixed, groups=2)
    assert not is_aliased(vectors.numpy(), truth.numpy(), groups=3)
    assert not is_aliased(vectors.numpy(), truth.numpy(), groups=None)
