"""Rows beside a reference: gains client by client, Wilcoxon's test and Holm's correction."""

from itertools import product

import numpy as np
import pytest
from made_up import evaluation

from fedadapt.config import RunConfig
from fedadapt.simulations.results.accuracies import last_accuracies
from fedadapt.simulations.results.comparison import MEAN, comparison
from fedadapt.simulations.results.paired import (
    ALONE,
    FINE_TUNED,
    STRATEGY_LOCAL,
    beside,
    difference,
    holm,
    over_seeds,
    p_value,
)
from fedadapt.simulations.results.summary import summarise


def run(accuracies, *, manifest="m", **config):
    """A run whose labels have these accuracies, client by client."""
    rows = [
        evaluation(client, accuracy, label)
        for label, values in accuracies.items()
        for client, accuracy in enumerate(values)
    ]
    return summarise(RunConfig(**config), manifest, rows, [], [], 1.0), last_accuracies(rows)


def held_against(reference, *runs):
    """Label by label of the strategies: (gain, p)."""
    summaries, accuracies = zip(*runs, strict=True)
    table = beside(comparison(summaries, (MEAN,)), summaries, accuracies.__getitem__, reference)
    places = [[c.key for c in table.columns].index(c.key) for c in (reference.gain, reference.p)]
    return {
        (line.strategy, line.label, *line.settings): tuple(line.cells[i].mean for i in places)
        for line in table.lines
    }


def exact(differences):
    """Wilcoxon's p by hand: the share of all signs with a rank sum as far from the middle."""
    differences = np.array([d for d in differences if d])
    order = np.abs(differences).argsort()
    ranks = np.empty(len(differences))
    ranks[order] = np.arange(1, len(differences) + 1)
    middle = ranks.sum() / 2
    far = abs(ranks[differences > 0].sum() - middle)
    signs = product((0, 1), repeat=len(differences))
    return np.mean([abs((np.array(s) * ranks).sum() - middle) >= far for s in signs])


@pytest.mark.parametrize(
    "differences",
    [(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (0.1, -0.2, 0.3, 0.45, 0.5), (-0.1, 0.3, -0.2, 0.7)],
)
def test_the_p_value_is_the_share_of_signs_that_are_as_uneven(differences):
    assert p_value(np.array(differences)) == pytest.approx(exact(differences))


def test_no_difference_is_no_evidence_and_rounding_is_no_difference():
    assert p_value(np.zeros(5)) == 1.0
    assert p_value(np.array([1e-9, -1e-9, 0.0])) == 1.0
    assert p_value(np.array([])) is None


def test_equal_differences_tie_however_they_were_rounded():
    tied = np.array([0.7 - 0.6, 0.4 - 0.3, 0.2, 0.3, 0.4, 0.5])
    assert p_value(tied) == pytest.approx(p_value(np.array([0.1, 0.1, 0.2, 0.3, 0.4, 0.5])))
    # Ranks 1.5, 1.5 and 3: six of eight rank sums are 1.5 or more from 3. Without the tie: four.
    assert p_value(np.array([0.7 - 0.6, -(0.4 - 0.3), -0.2])) == 6 / 8


def test_holm_by_hand():
    """4 x 0.005, 3 x 0.01, 2 x 0.03, and 1 x 0.04, which is raised to the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.03, None, 0.01]) == [None, 0.03, None, 0.02]
    assert holm([0.9, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_client_counts_once_whatever_the_number_of_seeds():
    means = over_seeds([{0: 0.1, 1: 0.3}, {1: 0.1, 2: -0.2}])
    assert means == pytest.approx({0: 0.1, 1: 0.2, 2: -0.2})


def test_a_difference_is_over_seen_clients_that_have_both():
    one = last_accuracies([evaluation(0, 0.5), evaluation(1, 0.75), evaluation(2, 1.0, seen=False)])
    other = last_accuracies([evaluation(0, 0.25), evaluation(2, 0.5, seen=False)])
    assert difference(one, "base", other, "base") == {0: 0.25}
    assert difference(one, "personal", other, "base") == {}


TUNED = {"base": [0.5] * 6, "base+fine-tune": [0.5, 0.6, 0.7, 0.5, 0.6, 0.7]}
BETTER = {"base": [0.4] * 6, "personal": [0.6, 0.8, 1.0, 0.9, 0.65, 0.73]}


def test_gains_are_over_fedavg_fine_tuned_on_the_same_clients():
    found = held_against(FINE_TUNED, run(TUNED), run(BETTER, strategy="ditto"))
    gain, p = found["ditto", "personal"]
    assert gain == pytest.approx(np.mean([0.1, 0.2, 0.3, 0.4, 0.05, 0.03]))
    assert p == pytest.approx(2 / 2**6 * 3)  # of three rows that are tested all go one way
    assert found["fedavg", "base+fine-tune"] == (None, None)
    assert found["fedavg", "base"][0] == pytest.approx(-0.1)


def test_runs_are_held_against_those_of_the_same_seed_whatever_other_seeds_there_are():
    def shifted(by: float) -> dict:
        return {label: [value - by for value in values] for label, values in TUNED.items()}

    found = held_against(
        FINE_TUNED,
        *(run(shifted(0.1 * seed), manifest=str(seed), seed=seed) for seed in (0, 1, 3)),
        *(run(BETTER, strategy="ditto", manifest=str(seed), seed=seed) for seed in (1, 3)),
    )
    assert found["ditto", "personal"][0] == pytest.approx(0.18 + (0.1 + 0.3) / 2)


def test_without_the_reference_there_is_no_column():
    summaries, accuracies = zip(run(BETTER, strategy="ditto"), strict=True)
    table = comparison(summaries)
    assert beside(table, summaries, accuracies.__getitem__, FINE_TUNED) is table


def test_other_clients_are_no_reference():
    found = held_against(
        FINE_TUNED,
        run(TUNED, benchmark="mnist", manifest="a"),
        run(BETTER, strategy="ditto", benchmark="mnist", manifest="a"),
        run(BETTER, strategy="ditto", benchmark="usps", manifest="b"),
    )
    assert found["ditto", "personal", "mnist"][0] is not None
    assert found["ditto", "personal", "usps"] == (None, None)


def test_of_several_references_it_is_the_one_with_the_same_settings():
    worse = {label: [value - 0.2 for value in values] for label, values in TUNED.items()}
    found = held_against(
        FINE_TUNED,
        run(TUNED, lr=0.1),
        run(worse, lr=0.01),
        run(BETTER, strategy="ditto", lr=0.01),
        run(BETTER, strategy="ditto", lr=0.5),
    )
    assert found["ditto", "personal", "0.01"][0] == pytest.approx(0.18 + 0.2)
    assert found["ditto", "personal", "0.5"] == (None, None)


def test_tuned_strategies_have_one_reference_each_with_settings_of_its_own():
    found = held_against(FINE_TUNED, run(TUNED, lr=0.1), run(BETTER, strategy="ditto", lr=0.01))
    assert found["ditto", "personal", "0.01"][0] == pytest.approx(0.18)


def test_local_is_the_row_of_the_runs_or_a_strategy_with_settings_of_its_own():
    alone = {"local": [0.3] * 6}
    runs = [run(TUNED | alone), run(BETTER | alone, strategy="ditto")]
    found = held_against(ALONE, *runs)
    assert found["no federation", "local"] == (None, None)
    assert found["ditto", "personal"][0] == pytest.approx(0.78 - 0.3)
    chosen = run({"personal": [0.4] * 6}, strategy="local", lr=0.9)
    found = held_against(STRATEGY_LOCAL, run(BETTER, strategy="ditto"), chosen)
    assert found["ditto", "personal", "0.05"][0] == pytest.approx(0.38)
    assert found["local", "personal", "0.9"] == (None, None)
