"""Rounds are chosen by adapt images: training ends early, and the best round is kept."""

import math
from dataclasses import replace

import pytest
from made_up import evaluation
from toy_run import SETTINGS, Run, assert_same_run

from fedadapt.client.adaptations.fine_tune import FineTune
from fedadapt.client.adaptations.none import NoAdaptation
from fedadapt.records import HELD_OUT, Evaluation
from fedadapt.server.checkpoint import load_latest
from fedadapt.simulations import round_choice
from fedadapt.simulations.round_choice import best_round, is_over, scores_by_round

CHOOSING = replace(SETTINGS, rounds=5, evaluate_every=1, fraction=1.0, local=False)
METHODS = (NoAdaptation(), FineTune(epochs=1))


def held_out(client, accuracy, round, model="base", **fields):
    return evaluation(client, accuracy, model, split=HELD_OUT, round=round, **fields)


def test_a_score_is_the_mean_over_seen_clients_on_adapt_images_alone():
    rows = [
        held_out(0, 0.5, 1),
        held_out(1, 0.7, 1),
        held_out(2, 0.0, 1, seen=False),
        held_out(0, 0.1, 1, "base+fine-tune"),
        held_out(0, 0.9, 0),
        evaluation(0, 1.0, round=2),
        held_out(0, 0.2, 3),
        held_out(0, 0.4, 3, "personal"),
    ]
    assert scores_by_round(rows) == {1: pytest.approx(0.6), 3: 0.4}


def test_what_a_test_says_changes_no_choice():
    """Planted: round 2 is far better on the test images, round 1 a little on adapt images."""
    rows = [held_out(0, 0.6, 1), held_out(0, 0.5, 2)]
    rows += [evaluation(0, 0.1, round=1), evaluation(0, 1.0, round=2)]
    assert best_round(scores_by_round(rows)) == 1


def test_of_equal_rounds_the_first_is_the_best_and_nothing_is_the_best_of_none():
    assert best_round({3: 0.5, 2: 0.5, 1: 0.4}) == 2
    assert best_round({}) is None


@pytest.mark.parametrize(
    ("scores", "patience", "over"),
    [
        ((), 1, False),
        ((0.5,), 1, False),
        ((0.5, 0.5), 1, True),
        ((0.5, 0.4), 2, False),
        ((0.5, 0.4, 0.3), 2, True),
        ((0.5, 0.4, 0.6, 0.5), 2, False),
        ((0.5, 0.4, 0.3, 0.2), 0, False),
    ],
)
def test_training_is_over_after_so_many_evaluations_without_a_rise(scores, patience, over):
    assert is_over(dict(enumerate(scores, 1)), patience) is over


def scores_of(run, model, round):
    return {
        (row.client, row.adaptation): (row.accuracy, row.loss)
        for row in run.rows(Evaluation)
        if (row.model, row.round, row.split) == (model, round, "test")
    }


@pytest.fixture
def scripted(monkeypatch):
    """The scores of rounds 1, 2, ... whatever the models are worth."""

    def script(*scores):
        def scored(rows):
            found = {row.round for row in rows if row.round and row.split == HELD_OUT}
            return {round: scores[round - 1] for round in found}

        monkeypatch.setattr(round_choice, "scores_by_round", scored)

    return script


def test_a_run_that_ends_early_is_the_shorter_run(tmp_path, scripted):
    scripted(0.5, 0.6, 0.6, 0.9, 0.9)
    early = Run(tmp_path / "a", replace(CHOOSING, early_stopping=1), adaptations=METHODS).go()
    assert early.federation.last_round == 3
    keys = [row[:2] + row[4:7] + (row.split,) for row in early.rows(Evaluation)]
    assert len(keys) == len(set(keys))
    short = Run(tmp_path / "b", replace(CHOOSING, rounds=3), adaptations=METHODS).go()
    assert scores_of(early, "base", 3) == scores_of(short, "base", 3)
    assert {adaptation for _, adaptation in scores_of(early, "base", 3)} == {"none", "fine-tune"}


def test_a_run_that_would_have_ended_early_still_does_when_it_is_resumed(tmp_path, scripted):
    scripted(0.5, 0.6, 0.6, 0.9, 0.9)
    config = replace(CHOOSING, early_stopping=1, best_round=True)
    whole = Run(tmp_path / "a", config, adaptations=METHODS).go()
    for stop in (("train", 2), ("evaluate", 3)):
        folder = tmp_path / stop[0]
        with pytest.raises(KeyboardInterrupt):
            Run(folder, config, adaptations=METHODS, stop=stop).go()
        assert_same_run(Run(folder, config, adaptations=METHODS).go(resume=True), whole)


def test_the_best_round_has_rows_beside_the_last(tmp_path, scripted):
    scripted(0.5, 0.8, 0.6, 0.7, 0.7)
    both = Run(tmp_path / "a", replace(CHOOSING, best_round=True), adaptations=METHODS).go()
    plain = Run(tmp_path / "b", CHOOSING, adaptations=METHODS).go()
    assert scores_of(both, "base", 5) == scores_of(plain, "base", 5)
    kept, then = scores_of(both, "best-base", 5), scores_of(plain, "base", 2)
    assert {client for client, _ in kept} == {client for client, _ in then}
    assert {(c, a): v for (c, a), v in kept.items() if a == "none"} == then
    assert kept != scores_of(both, "base", 5)
    assert load_latest(tmp_path / "a" / "best").round == 2
    for name, tensor in both.state.items():
        assert tensor.equal(plain.state[name]), name
    for client, states in both.states.items():
        for name, tensor in states["norms"].items():
            assert tensor.equal(plain.states[client]["norms"][name])


def test_a_best_round_that_is_the_last_is_evaluated_under_both_names(tmp_path, scripted):
    scripted(0.1, 0.2, 0.3, 0.4, 0.5)
    run = Run(tmp_path, replace(CHOOSING, best_round=True), adaptations=METHODS).go()
    assert scores_of(run, "best-base", 5) == scores_of(run, "base", 5)


def test_whoever_watches_is_told_each_score_and_can_end_the_run(tmp_path):
    told = []

    def watch(round, score):
        told.append((round, score))
        if round == 2:
            raise KeyError("enough")

    run = Run(tmp_path, CHOOSING, adaptations=METHODS, watch=watch)
    with pytest.raises(KeyError):
        run.go()
    assert [round for round, _ in told] == [1, 2]
    rows = [r for r in run.rows(Evaluation) if r.split == HELD_OUT and r.round == 2 and r.seen]
    assert told[1][1] == pytest.approx(math.fsum(r.accuracy for r in rows) / len(rows))


def test_without_a_choice_no_adapt_image_is_scored(tmp_path):
    run = Run(tmp_path, CHOOSING, adaptations=METHODS).go()
    assert {row.split for row in run.rows(Evaluation)} == {"test", "global"}
