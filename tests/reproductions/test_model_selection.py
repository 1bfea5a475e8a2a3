"""Which round counts: a rule looks only at what it may look at."""

import numpy as np
import pytest

from fedadapt.errors import InputError
from fedadapt.records import Evaluation
from fedadapt.reproductions.model_selection import Curve, curve


def row(round: int, client: int, split: str, accuracy: float, **more) -> Evaluation:
    model, adaptation = more.pop("model", "base"), more.pop("adaptation", "none")
    given = (round, client, "kind", True, model, adaptation, split, 10, accuracy, 1.0)
    return Evaluation(*given, **more)


TEST = np.array([[0.1, 0.2], [0.9, 0.3], [0.5, 0.8]])
VALIDATION = np.array([[0.3, 0.1], [0.2, 0.9], [0.4, 0.2]])
MADE = Curve((1, 2, 3), (0, 1), TEST, VALIDATION)


def test_the_last_rule_takes_the_last_round():
    assert MADE.chosen("last").tolist() == [0.5, 0.8]


def test_the_test_rule_takes_the_best_mean_on_the_test():
    assert MADE.chosen("test").tolist() == [0.5, 0.8]
    assert MADE.chosen("test", [[0], [1]]).tolist() == [0.9, 0.8]


def test_the_validation_rule_never_looks_at_the_test():
    assert MADE.chosen("validation").tolist() == [0.9, 0.3]
    assert MADE.chosen("validation", [[0], [1]]).tolist() == [0.5, 0.3]
    blind = Curve(MADE.steps, MADE.clients, 1 - TEST, VALIDATION)
    assert blind.chosen("validation").tolist() == pytest.approx([0.1, 0.7])


def test_of_equal_rounds_the_first_counts():
    flat = Curve((1, 2), (0,), np.array([[0.2], [0.7]]), np.array([[0.5], [0.5]]))
    assert flat.chosen("validation").tolist() == [0.2]


def test_a_models_curve_runs_over_rounds_without_the_untrained_one():
    rows = [row(r, d, s, 0.1 * r + 0.01 * d) for r in (0, 1, 2) for d in (1, 0)
            for s in ("test", "adapt")]  # fmt: skip
    rows.append(row(2, -1, "global", 1.0))
    found = curve(rows, "base")
    assert found.steps == (1, 2)
    assert found.clients == (0, 1)
    assert found.test == pytest.approx(np.array([[0.1, 0.11], [0.2, 0.21]]))


def test_an_adaptations_curve_runs_over_its_epochs_and_ends_with_its_end():
    rows = [
        row(4, 0, split, accuracy, adaptation="kd", epoch=epoch)
        for split in ("test", "adapt")
        for epoch, accuracy in ((5, 0.2), (10, 0.3), (0, 0.4))
    ]
    found = curve(rows, "base", "kd")
    assert found.steps == (5, 10, 15)
    assert found.test[:, 0].tolist() == [0.2, 0.3, 0.4]
    assert found.chosen("last").tolist() == [0.4]


@pytest.mark.parametrize("rows", [[], [row(1, 0, "test", 0.5)]], ids=["none", "no validation"])
def test_a_run_without_curves_is_refused(rows):
    with pytest.raises(InputError, match="the run must record curves"):
        curve(rows, "base")
