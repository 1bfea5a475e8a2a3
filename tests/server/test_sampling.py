"""Who takes part is a function of seed and round."""

import pytest

from fedadapt.server.sampling import evaluation_sample, sample

CLIENTS = (2, 3, 5, 8, 11, 14, 20, 21, 30, 31)


@pytest.mark.parametrize(
    ("fraction", "count"),
    [(1.0, 10), (0.5, 5), (0.25, 3), (0.24, 2), (0.01, 1), (0.96, 10), (0.7, 7), (0.3, 3)],
)
def test_the_fraction_is_rounded_and_is_at_least_one(fraction, count):
    found = sample(CLIENTS, fraction, seed=1, round=1)
    assert len(found) == count
    assert list(found) == sorted(set(found))
    assert set(found) <= set(CLIENTS)
    assert all(type(d) is int for d in found)


def test_seed_and_round_decide_and_nothing_else():
    draws = {(s, r): sample(CLIENTS, 0.5, s, r) for s in range(4) for r in range(1, 5)}
    assert draws == {(s, r): sample(list(CLIENTS), 0.5, s, r) for s, r in draws}
    assert len(set(draws.values())) > 12


def test_every_client_is_sampled_about_equally_often():
    turns = [d for r in range(400) for d in sample(CLIENTS, 0.3, 1, r)]
    assert all(80 < turns.count(d) < 160 for d in CLIENTS)  # 120 each on average


SEEN, UNSEEN = tuple(range(0, 2000, 2)), tuple(range(1, 400, 2))  # 1000 and 200


@pytest.mark.parametrize("most", [0, 1200, 5000])
def test_where_there_are_no_more_everybody_is_evaluated(most):
    assert evaluation_sample(SEEN, UNSEEN, most, seed=1) == tuple(sorted(SEEN + UNSEEN))


def test_a_panel_holds_seen_and_unseen_clients_in_proportion():
    found = evaluation_sample(SEEN, UNSEEN, 120, seed=1)
    assert len(found) == len(set(found)) == 120
    assert list(found) == sorted(found)
    assert len(set(found) & set(UNSEEN)) == 20
    assert set(found) <= {*SEEN, *UNSEEN}


def test_a_few_unseen_clients_are_not_forgotten_nor_are_the_seen_ones():
    assert len(set(evaluation_sample(SEEN, (1,), 10, seed=1)) & {1}) == 1
    assert len(set(evaluation_sample((2,), UNSEEN, 10, seed=1)) & {2}) == 1
    assert len(set(evaluation_sample((), UNSEEN[:3], 2, seed=1)) & set(UNSEEN[:3])) == 2
    assert len(evaluation_sample(SEEN, UNSEEN, 1, seed=1)) == 1


def test_the_panel_is_the_seeds_and_stays_the_same():
    assert evaluation_sample(SEEN, UNSEEN, 50, 1) == evaluation_sample(
        list(SEEN), list(UNSEEN), 50, 1
    )
    assert evaluation_sample(SEEN, UNSEEN, 50, 1) != evaluation_sample(SEEN, UNSEEN, 50, 2)
