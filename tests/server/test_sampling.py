"""Who takes part is a function of seed and round."""

import pytest

from fedadapt.server.sampling import sample

DEVICES = (2, 3, 5, 8, 11, 14, 20, 21, 30, 31)


@pytest.mark.parametrize(
    ("fraction", "count"),
    [(1.0, 10), (0.5, 5), (0.25, 3), (0.24, 2), (0.01, 1), (0.96, 10), (0.7, 7), (0.3, 3)],
)
def test_the_fraction_is_rounded_and_is_at_least_one(fraction, count):
    found = sample(DEVICES, fraction, seed=1, round=1)
    assert len(found) == count
    assert list(found) == sorted(set(found))
    assert set(found) <= set(DEVICES)
    assert all(type(d) is int for d in found)


def test_seed_and_round_decide_and_nothing_else():
    draws = {(s, r): sample(DEVICES, 0.5, s, r) for s in range(4) for r in range(1, 5)}
    assert draws == {(s, r): sample(list(DEVICES), 0.5, s, r) for s, r in draws}
    assert len(set(draws.values())) > 12


def test_everybody_has_a_turn():
    turns = [d for r in range(400) for d in sample(DEVICES, 0.3, 1, r)]
    assert all(80 < turns.count(d) < 160 for d in DEVICES)  # 120 each on average
