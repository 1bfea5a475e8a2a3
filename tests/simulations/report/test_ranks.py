"""Mean ranks of methods over clients: known answers of Demšar 2006 and of scipy."""

import math

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from fedadapt.simulations.report.study.ranks import critical_difference, friedman, ranks


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (10, 3.164)])
def test_the_critical_difference_has_the_values_of_demsars_table(methods, q):
    expected = q * math.sqrt(methods * (methods + 1) / (6 * 14))
    assert critical_difference(methods, 14) == pytest.approx(expected, abs=2e-3)


def test_ranks_are_means_over_clients_best_first_and_ties_share_theirs():
    found = ranks(np.array([[0.5, 0.5, 0.1], [0.9, 0.5, 0.3], [0.7, 0.8, 0.2]]))
    assert found.methods == (1, 2, 0)
    assert found.mean == pytest.approx((4.5 / 3, 5 / 3, 8.5 / 3))
    assert sum(found.mean) == pytest.approx(6)  # k (k + 1) / 2
    assert found.num_clients == 3


def test_accuracies_that_differ_by_rounding_are_equal():
    found = ranks(np.array([[0.1 + 0.2, 0.3], [0.3, 0.1 + 0.2]]))
    assert found.mean == (1.5, 1.5)
    assert found.p == 1.0
    one_sided = ranks(np.array([[0.1 + 0.2, 0.1 + 0.2], [0.3, 0.3]]))
    assert one_sided.mean == (1.5, 1.5)


def test_friedmans_p_is_that_of_scipy_with_ties():
    random = np.random.default_rng(3)
    accuracy = random.integers(5, 10, (4, 25)) / 10
    accuracy[0] += 0.1
    accuracy = accuracy.round(9)  # ties are ties
    p = friedmanchisquare(*accuracy).pvalue
    assert ranks(accuracy).p == pytest.approx(p)
    assert friedman(np.full((3, 5), 2.0)) == 1.0


def test_methods_are_alike_in_the_longest_stretches_that_are_close_enough():
    ladder = np.array([[0.9] * 40, [0.8] * 40, [0.3] * 40, [0.2] * 40])
    ladder[0, :19], ladder[1, :19] = 0.8, 0.9  # the first two beat each other nearly as often
    found = ranks(ladder)
    assert found.difference == pytest.approx(2.569 * math.sqrt(20 / 240), abs=1e-3)
    assert found.alike == ((0, 1),)
    same = ranks(np.tile([0.5, 0.6], (3, 1)))
    assert same.alike == ((0, 2),)
    assert same.p == 1.0
    apart = ranks(np.repeat(np.array([[0.9], [0.5]]), 30, 1))
    assert apart.alike == ()


def test_one_method_or_one_client_has_no_ranks():
    assert ranks(np.ones((1, 5))) is None
    assert ranks(np.ones((3, 1))) is None
