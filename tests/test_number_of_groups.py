"""The rule for the number of groups, against the likelihood that its text and the docs speak of."""

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks import number_of_groups
from fedadapt.server.clustering.number_of_clusters import code_length, group_means

GENERATOR = np.random.default_rng(0)
VECTORS = GENERATOR.normal(size=(12, 4))
GROUPINGS = [np.zeros(12, np.int64), np.repeat([0, 1], [5, 7]), np.repeat([0, 1, 2], 4)]


def likelihood(labels: np.ndarray, variance: float) -> float:
    """Minus the log-likelihood of all numbers, and of the names of the groups."""
    means = group_means(VECTORS, labels)[labels]
    names = np.log(np.bincount(labels) / len(labels))[labels]
    return -float(norm.logpdf(VECTORS, means, np.sqrt(variance)).sum() + names.sum())


def variance_of(labels: np.ndarray, divisor: int) -> float:
    means = group_means(VECTORS, labels)[labels]
    return float(((VECTORS - means) ** 2).sum()) / divisor


def test_a_number_of_a_mean_costs_half_a_nat_more_than_the_bayesian_criterion_says():
    """Beside minus the log-likelihood at the unbiased variance; four independent channels."""
    rest = []
    for labels in GROUPINGS:
        groups = int(labels.max()) + 1
        variance = variance_of(labels, 4 * (12 - groups))
        price = (groups * 4 + 1) / 2 * np.log(12) + groups * 4 / 2
        rest.append(code_length(VECTORS, labels, 4) - likelihood(labels, variance) - price)
    np.testing.assert_allclose(rest, rest[0])  # a constant


@pytest.mark.parametrize("rule", number_of_groups.RULES)
def test_the_rules_that_are_compared_are_what_they_are_called(rule):
    length = number_of_groups.length_by(number_of_groups.RULES[rule])
    rest = []
    for labels in GROUPINGS:
        groups = int(labels.max()) + 1
        found = length(VECTORS, labels, 4)
        price = (groups * 4 + 1) / 2 * np.log(12)
        if rule == "unbiased variance":
            rest.append(found - code_length(VECTORS, labels, 4))
        elif rule == "quadratic term kept":
            variance = variance_of(labels, 4 * (12 - groups))
            rest.append(found - likelihood(labels, variance) - price)
        else:
            rest.append(found - likelihood(labels, variance_of(labels, 4 * 12)) - price)
    np.testing.assert_allclose(rest, rest[0], atol=1e-9)


def test_every_rule_separates_kinds_far_apart_and_the_table_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(number_of_groups, "WIDTHS", (4.0,))
    number_of_groups.main(["--count", "2"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert len(rows) == 2
    assert rows[0].count("1.00  100%  5.0") == rows[1].count("1.00  100%  1.0") == 3
