"""Accuracy and forgetting from rows, by hand."""

import numpy as np
import pytest

from fedadapt.records import Evaluation
from fedadapt.simulations.results.forgetting import forgetting_rows, task_scores


def rows(matrix, client=0, label="base"):
    return [
        Evaluation(k + 1, client, "all", True, label, "none", "test", 10, matrix[k][t], 1.0, task=t)
        for k in range(len(matrix))
        for t in range(k + 1)
    ]


ONE = [[0.9, 0, 0], [0.8, 0.7, 0], [0.6, 0.8, 1.0]]
TWO = [[0.5, 0, 0], [0.5, 0.5, 0], [0.5, 0.5, 0.5]]


def test_forgetting_is_what_a_task_was_worth_when_new_less_what_it_is_worth_at_the_end():
    found = task_scores(rows(ONE))["base"]
    assert found.accuracy.tolist() == pytest.approx([0.8])
    assert found.forgotten.tolist() == [pytest.approx([0.3, -0.1, 0.0])]
    metadata = found.metadata()
    assert metadata["forgetting"] == pytest.approx(0.1)  # over the two tasks that can be forgotten
    assert metadata["forgetting_over_all"] == pytest.approx(0.2 / 3)  # as DUA counts


def test_users_count_alike_and_in_any_order():
    mixed = [*rows(TWO, 1), *rows(ONE, 0)][::-1]
    metadata = task_scores(mixed)["base"].metadata()
    assert metadata["accuracy"] == pytest.approx((0.8 + 0.5) / 2)
    assert metadata["forgetting"] == pytest.approx(0.05)
    assert metadata["matrix"][0] == [pytest.approx(0.7), None, None]


def test_a_user_who_was_not_measured_at_the_end_is_left_out():
    cut = [row for row in rows(TWO, 1) if row.round < 3]
    found = task_scores([*rows(ONE), *cut])["base"]
    assert found.matrix.shape == (1, 3, 3)


def test_other_tests_and_epochs_on_the_way_do_not_count():
    extra = [row._replace(split="adapt", accuracy=0.0) for row in rows(ONE)]
    extra += [row._replace(epoch=5, accuracy=0.0) for row in rows(ONE)]
    assert np.allclose(task_scores(rows(ONE) + extra)["base"].accuracy, 0.8)


def test_each_user_and_task_is_a_row_of_its_own():
    adapted = [row._replace(adaptation="adabn") for row in rows(TWO, 1)]
    found = list(forgetting_rows(task_scores([*rows(ONE, 1, "personal"), *rows(TWO, 0), *adapted])))
    labels = [("base", "none", 0), ("base", "adabn", 1), ("personal", "none", 1)]
    assert sorted({(r.model, r.adaptation, r.client) for r in found}) == sorted(labels)
    assert len(found) == 3 * 3
    own = [r for r in found if r.model == "personal"]
    assert [r.task for r in own] == [0, 1, 2]
    assert [r.when_new for r in own] == pytest.approx([0.9, 0.7, 1.0])
    assert [r.at_end for r in own] == pytest.approx([0.6, 0.8, 1.0])
    assert [r.forgetting for r in own] == pytest.approx([0.3, -0.1, 0.0])
    assert {r.kind for r in own} == {"all"}
