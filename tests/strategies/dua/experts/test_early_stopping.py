"""The plateau rule: five bad epochs and the rate falls, ten and it is over."""

import pytest

from fedadapt.strategies.dua.experts.early_stopping import EarlyStopping


def run(accuracies, stop=10):
    early_stopping, rates = EarlyStopping(1.0, 5, 0.1, stop), []
    for accuracy in accuracies:
        rates.append(early_stopping.lr)
        early_stopping = early_stopping.after(accuracy)
        if early_stopping.is_over:
            break
    return early_stopping, rates


@pytest.mark.parametrize("stop", [10, 11])
def test_ends_after_so_many_bad_epochs_with_one_fall_on_the_way(stop):
    early_stopping, rates = run([0.5] * 40, stop)
    assert rates == [1.0] * 6 + [0.1] * (stop - 5)
    assert early_stopping.best == 0.5


def test_an_equal_score_is_no_improvement_and_an_improvement_restarts_the_count():
    early_stopping, rates = run([0.5] * 5 + [0.6] + [0.6] * 4)
    assert rates == [1.0] * 10
    assert early_stopping.bad == 4
    assert not early_stopping.is_over


def test_the_rate_stays_down_and_falls_again_on_the_next_plateau():
    early_stopping, rates = run([0.5] * 6 + [0.6] * 6 + [0.7] * 2)
    assert rates == pytest.approx([1.0] * 6 + [0.1] * 6 + [0.01] * 2)
    assert early_stopping.best == 0.7


def test_a_first_epoch_without_one_right_answer_is_the_best_so_far():
    assert run([0.0])[0].bad == 0
