"""Groups of made-up vectors whose answer is known; what benchmarks measure on real ones."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from fedadapt.errors import InputError
from fedadapt.server.clustering import grouping as module
from fedadapt.server.clustering.grouping import group_clients

METHODS = ["efficient", "exact"]


def around(
    centres: Tensor, sizes: list[int], spread: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Clients near the centres, shuffled, and the centre of each."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    truth = truth[torch.randperm(len(truth), generator=generator)]
    noise = torch.randn(len(truth), centres.shape[1], generator=generator, dtype=torch.float64)
    return centres.double()[truth] + spread * noise, truth


def scattered(number: int, channels: int = 30) -> Tensor:
    """Distributions anywhere."""
    return torch.rand(number, channels, generator=torch.Generator().manual_seed(number))


def row_of(number: int, channels: int = 30) -> Tensor:
    """Distributions one after another on a line."""
    return torch.linspace(0.1, 0.9, number)[:, None].expand(number, channels)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_distributions_in_a_row_are_found_in_uneven_groups(method, seed):
    vectors, truth = around(row_of(4), [3, 12, 2, 8], 0.005, seed)
    found = group_clients(vectors, method=method)
    assert found.num_groups == 4
    assert adjusted_rand_score(truth, found.labels) == 1.0


def test_one_reference_client_is_enough_for_distributions_in_a_row():
    vectors, _ = around(row_of(3), [6, 6, 6], 0.005)
    found = group_clients(vectors, method="efficient")
    assert (found.method, found.aliased) == ("efficient", False)
    assert found.distances.shape == (18,)
    assert found.reference is not None
    expected = (vectors - vectors[found.reference]).norm(dim=1)
    torch.testing.assert_close(found.distances, expected)


@pytest.mark.parametrize("groups", [None, 3])
def test_distributions_on_a_circle_around_the_reference_fall_back_on_pairs(groups):
    """Two of the three are equally far from every client of the third."""
    centres = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    vectors, truth = around(centres, [6, 6, 6], 1e-3)
    found = group_clients(vectors, groups=groups, method="efficient")
    assert found.aliased
    assert found.method == "exact"
    assert found.distances.shape == (18, 18)
    assert adjusted_rand_score(truth, found.labels) == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_a_client_unlike_all_others_is_no_group_of_its_own(method):
    vectors, truth = around(row_of(3), [6, 6, 6], 0.005)
    vectors = torch.cat([vectors, torch.full((1, 30), 1.2, dtype=torch.float64)])
    found = group_clients(vectors, method=method)
    assert np.bincount(found.labels).min() >= 2
    assert adjusted_rand_score(truth, found.labels[:-1]) == 1.0
    assert found.labels[-1] == found.labels[int(truth.argmax())]


def test_a_client_unlike_all_others_is_not_one_of_the_groups_asked_for():
    vectors, truth = around(scattered(3), [6, 6, 6], 0.005)
    vectors = torch.cat([vectors, torch.full((1, 30), 3.0, dtype=torch.float64)])
    found = group_clients(vectors, groups=3, method="exact")
    assert adjusted_rand_score(truth, found.labels[:-1]) == 1.0
    assert np.bincount(found.labels).min() >= 2


def test_as_many_groups_as_were_asked_for_even_of_one_client():
    for groups in range(1, 7):
        found = group_clients(scattered(6), groups=groups, method="exact")
        assert found.num_groups == groups


@pytest.mark.parametrize("method", METHODS)
def test_clients_that_are_all_alike_are_one_group(method):
    found = group_clients(torch.full((8, 5), 0.5), method=method)
    assert found.num_groups == 1
    assert math.isnan(found.quality)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_fewer_than_two_pairs_are_one_group(method, count):
    assert group_clients(torch.rand(count, 5), method=method).num_groups == 1


@pytest.mark.parametrize("method", METHODS)
def test_groups_count_from_the_first_client_and_centroids_are_their_means(method):
    vectors, _ = around(row_of(3), [6, 6, 6], 0.005)
    found = group_clients(vectors, method=method)
    _, first = np.unique(found.labels, return_index=True)
    assert (np.diff(first) > 0).all()
    for group, centroid in enumerate(found.centroids):
        torch.testing.assert_close(centroid, vectors[found.labels == group].mean(0))


@pytest.mark.parametrize("method", METHODS)
def test_neither_moving_nor_scaling_all_vectors_shows(method):
    vectors, _ = around(scattered(4), [5, 5, 5, 5], 0.01)
    plain = group_clients(vectors, method=method)
    moved = group_clients(3 * vectors - 7, method=method)
    assert torch.equal(plain.labels, moved.labels)


def test_a_sample_stands_for_many_clients(monkeypatch):
    monkeypatch.setattr(module, "EXACT_LIMIT", 50)
    vectors, truth = around(scattered(3), [100, 100, 100], 0.01)
    found = group_clients(vectors, method="exact")
    assert found.distances.shape == (50, 50)
    assert adjusted_rand_score(truth, found.labels) == 1.0


@pytest.mark.parametrize(
    ("vectors", "groups"),
    [
        (torch.rand(4), None),
        (torch.rand(0, 3), None),
        (torch.tensor([[0.0, math.nan]] * 4), None),
        (torch.ones(4, 3, dtype=torch.int64), None),
        (torch.rand(4, 3), 5),
        (torch.rand(4, 3), 0),
    ],
)
def test_what_cannot_be_grouped_is_refused_in_one_line(vectors, groups):
    with pytest.raises(InputError, match="grouping") as error:
        group_clients(vectors, groups=groups)
    assert "\n" not in str(error.value)
