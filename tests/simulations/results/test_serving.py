"""The model that each client chooses by its adapt images, from rows by hand."""

from collections import Counter

import pytest

from fedadapt.records import HELD_OUT, LOCAL, Evaluation
from fedadapt.simulations.results.serving import chosen_models, served_rows


def row(client, label, split, accuracy, loss=1.0, round=2, count=10, task=0):
    model, _, adaptation = label.partition("+")
    adaptation = adaptation or "none"
    return Evaluation(
        round, client, "k", True, model, adaptation, split, count, accuracy, loss, task=task
    )


def rows(client, **labels):
    """(held-out accuracy, held-out loss, test accuracy) by label, with ``_`` for ``+``."""
    for name, (held_out, loss, test) in labels.items():
        label = name.replace("_", "+")
        yield row(client, label, "test", test, 7.0)
        if held_out is not None:
            yield row(client, label, HELD_OUT, held_out, loss)


def served(*groups):
    given = [one for group in groups for one in group]
    counts = Counter(
        "+".join(words).removesuffix("+none") for words in chosen_models(given, 2).values()
    )
    return {r.client: r for r in served_rows(given, 2)}, counts


def test_a_client_keeps_the_base_unless_another_model_has_more_right_answers():
    found, counts = served(
        rows(0, base=(0.5, 1.0, 0.6), base_adabn=(0.5, 0.1, 0.9)),  # a tie: the loss is no reason
        rows(1, base=(0.5, 1.0, 0.6), base_adabn=(0.6, 9.0, 0.2)),
        rows(2, base=(0.5, 1.0, 0.6), base_adabn=(0.4, 0.1, 0.9)),
    )
    assert [found[d].accuracy for d in (0, 1, 2)] == [0.6, 0.2, 0.6]
    assert counts == {"base": 2, "base+adabn": 1}


def test_of_several_better_ones_it_takes_the_most_right_then_the_least_loss_then_the_first():
    found, counts = served(
        rows(0, base=(0.1, 1, 0.0), base_adabn=(0.6, 1, 0.1), personal=(0.7, 5, 0.2)),
        rows(1, base=(0.1, 1, 0.0), base_adabn=(0.6, 2, 0.1), personal=(0.6, 1, 0.2)),
        rows(2, base=(0.1, 1, 0.0), base_adabn=(0.6, 1, 0.1), personal=(0.6, 1, 0.2)),
    )
    assert [found[d].accuracy for d in (0, 1, 2)] == [0.2, 0.2, 0.1]
    assert counts == {"personal": 2, "base+adabn": 1}


def test_the_row_is_of_the_clients_own_test_under_a_name_of_its_own():
    [one] = served_rows(rows(4, base=(0.1, 1, 0.0), personal_ewc=(0.6, 1, 0.25)), 2)
    assert (one.label, one.split, one.client, one.loss) == ("served", "test", 4, 7.0)
    assert one.num_examples == 10


def test_a_test_never_has_a_say():
    for test in (0.0, 1.0):
        _, counts = served(rows(0, base=(0.5, 1, 0.5), personal=(0.4, 1, test)))
        assert counts == {"base": 1}


def test_models_that_failed_and_clients_without_a_base_choose_nothing():
    found, counts = served(
        rows(0, base=(0.5, 1, 0.6), personal=(None, 0, 0.9)),  # nothing to judge it by
        rows(1, personal=(0.9, 1, 0.9)),
        rows(2, base=(None, 0, 0.9), personal=(0.9, 1, 0.9)),
        [row(3, "base", "test", 0.4), row(3, "base", HELD_OUT, 0.1), row(3, "p", HELD_OUT, 0.9)],
    )
    assert found.keys() == {0, 3}
    assert counts == {"base": 2}


def test_other_rounds_stages_sets_and_training_alone_are_left_out():
    given = [*rows(0, base=(0.5, 1, 0.6), local=(0.9, 1, 0.9))]
    given += [row(0, "personal", s, 0.9, round=1) for s in ("test", HELD_OUT)]
    given += [row(0, "base+ewc", s, 0.9)._replace(epoch=5) for s in ("test", HELD_OUT)]
    given += [row(0, "base+kd", "adapt", 1.0), row(0, "base+kd", "global", 1.0)]
    assert LOCAL == "local"
    [one] = served_rows(given, 2)
    assert one.accuracy == 0.6
    assert list(served_rows([*given, one], 2)) == [one]  # rows that are there already say nothing


@pytest.mark.parametrize("share", [1 / 3, 2 / 3, 0.1])
def test_equal_counts_are_a_tie_whatever_rounding_made_of_them(share):
    near = share + 1e-12
    _, counts = served(rows(0, base=(share, 1, 0.5), personal=(near, 1, 0.9)))
    assert counts == {"base": 1}
