"""Tuning: on adapt images alone, the same budget for all, and an interrupted study goes on."""

import csv
import io
import math
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner
from made_up import evaluation
from rich.console import Console

from fedadapt.cli import main
from fedadapt.errors import DivergedError, InputError, InterruptedRunError
from fedadapt.records import HELD_OUT, Evaluation
from fedadapt.simulations import compare, model_trial
from fedadapt.simulations.results.parquet import table_rows
from fedadapt.simulations.studies import tune as tuning
from fedadapt.simulations.studies.space import parse_space
from fedadapt.simulations.studies.tune import SPREAD, Tuning, score_of, spread
from fedadapt.simulations.studies.tuned import read_tuned

QUIET = Console(quiet=True)


def study(folder, space="lr=0.003,0.03,0.3", budget=3, seeds=(101,), pruning=False, **changes):
    given = {"rounds": 2, "adapt": "none", "workers": 1, "evaluate-every": 1} | changes
    config = tiny.config(**{k.replace("-", "_"): v for k, v in given.items()})
    return Tuning(
        config, parse_space(space, "space"), space, budget, seeds, "adapt", pruning, folder
    )


@pytest.fixture
def scored(monkeypatch):
    """Runs that are not made: a trial's score is a function of its settings; (config, score)."""
    made = []

    def script(score):
        def finish(config, console, watch=None, pictures=True):
            made.append(config)
            value = score(config)
            for round in range(1, config.rounds + 1):
                watch(round, value)

        monkeypatch.setattr(tuning, "finished", finish)
        monkeypatch.setattr(tuning, "table_rows", lambda folder, kind: [])
        monkeypatch.setattr(tuning, "score_of", lambda *_: score(made[-1]))
        return made

    return script


def peak(config):
    """Best at a learning rate of 0.05."""
    return 1 - abs(math.log10(config.lr / 0.05)) / 4


def test_the_score_is_the_last_round_s_mean_over_seen_clients_on_held_out_images():
    rows = [
        evaluation(0, 0.9, split=HELD_OUT, round=1),
        evaluation(0, 0.5, split=HELD_OUT, round=2),
        evaluation(1, 0.7, split=HELD_OUT, round=2),
        evaluation(2, 0.0, split=HELD_OUT, round=2, seen=False),
        evaluation(0, 1.0, round=2),
        evaluation(0, 0.2, "base+fine-tune", split=HELD_OUT, round=2),
    ]
    assert score_of(iter(rows), "adapt", ["none"]) == pytest.approx(0.6)
    assert score_of(iter(rows), "adapt", ["none", "fine-tune"]) == 0.2
    assert score_of(iter(rows), "adapt:base", ["none", "fine-tune"]) == pytest.approx(0.6)
    rows.append(evaluation(0, 0.4, "personal", split=HELD_OUT, round=2))
    assert score_of(iter(rows), "adapt", ["none"]) == 0.4
    with pytest.raises(InputError, match=r"personal\+kd has no results; there are: base, base"):
        score_of(iter(rows), "adapt:personal+kd", ["none"])


def test_a_setting_that_only_wins_on_the_test_images_is_not_chosen(tmp_path, monkeypatch):
    """Planted: with the smallest learning rate every answer to a test image is right."""
    evaluate, configs = model_trial.evaluate, []

    def cheat(cohort, weights, tests):
        scores = evaluate(cohort, weights, tests)
        return [s._replace(accuracy=1.0) for s in scores] if configs[-1].lr < 0.01 else scores

    finish = compare.finished

    def noting(config, *rest, **how):
        configs.append(config)
        return finish(config, *rest, **how)

    monkeypatch.setattr(model_trial, "evaluate", cheat)
    monkeypatch.setattr(tuning, "finished", noting)
    [choice] = study(tmp_path).run(["fedavg"], QUIET).choices
    test = {
        config.lr: [
            row.accuracy
            for row in table_rows(Path(config.out), Evaluation)
            if row.split == "test" and row.round == 2
        ]
        for config in configs
    }
    assert set(test[0.003]) == {1.0}
    assert max(map(sum, (test[0.03], test[0.3]))) < sum(test[0.003])
    assert choice.point["lr"] > 0.01
    scores = {trial.point["lr"]: trial.score for trial in choice.trials}
    assert choice.score == max(scores.values()) > scores[0.003]


def test_the_best_of_a_grid_is_found_where_the_budget_covers_it(tmp_path, scored):
    made = scored(peak)
    tuned = study(tmp_path, "lr=0.01,0.04,0.2; momentum=0.0,0.9", 12, (7, 8)).run(["fedavg"], QUIET)
    [choice] = tuned.choices
    assert len(choice.trials) == 6  # each point once, though twelve were allowed
    assert len({tuple(trial.point.items()) for trial in choice.trials}) == 6
    assert choice.point["lr"] == 0.04
    assert choice.score == pytest.approx(peak(tiny.config(lr=0.04)))
    assert [config.seed for config in made] == [7, 8] * 6


def test_a_range_is_searched_where_it_is_good(tmp_path, scored):
    scored(peak)
    space = "lr=log:1e-4..10.0; ditto.lam=0.01,0.1,1"
    [choice] = study(tmp_path, space, 12).run(["ditto"], QUIET).choices
    assert 0.02 < choice.point["lr"] < 0.125
    assert len(choice.trials) == 12
    assert {trial.point["ditto.lam"] for trial in choice.trials} == {0.01, 0.1, 1}


def test_the_first_points_cover_every_axis():
    axes = parse_space("lr=log:1e-4..1; local-epochs=1..8; ditto.lam=1,2,3,4", "space")
    points = spread(axes, 1)
    assert len(points) == SPREAD == 4
    assert sorted(int(math.log10(p["lr"]) + 4) for p in points) == [0, 1, 2, 3]
    assert {p["ditto.lam"] for p in points} == {1, 2, 3, 4}
    assert all(isinstance(p["local-epochs"], int) for p in points)


def test_every_strategy_has_the_same_budget(tmp_path, scored):
    scored(peak)
    tuned = study(tmp_path, "lr=log:1e-3..1; ditto.lam=0.1,1", 6).run(["local", "ditto"], QUIET)
    assert [len(choice.trials) for choice in tuned.choices] == [6, 6]
    assert {tuple(t.point) for t in tuned.choices[0].trials} == {("lr",)}
    assert {tuple(t.point) for t in tuned.choices[1].trials} == {("lr", "ditto.lam")}


def test_an_interrupted_study_goes_on_as_if_nothing_had_happened(tmp_path, scored):
    whole_runs = scored(peak)
    space = "lr=log:1e-3..1"
    whole = study(tmp_path / "whole", space, 8).run(["fedavg"], QUIET)
    assert len(whole_runs) == 8
    stopping = {"after": 5}

    def stops(config):
        if stopping["after"] == 0:
            raise InterruptedRunError("Ctrl-C")
        stopping["after"] -= 1
        return peak(config)

    scored(lambda config: stops(config))
    with pytest.raises(InterruptedRunError, match="the same command goes on where it was"):
        study(tmp_path / "cut", space, 8).run(["fedavg"], QUIET)
    before = len(scored(peak))
    rest = study(tmp_path / "cut", space, 8).run(["fedavg"], QUIET)
    assert rest.choices == whole.choices
    assert len(whole_runs) - before == 6  # the one that was cut off, and those after it
    assert study(tmp_path / "cut", space, 8).run(["fedavg"], QUIET) == rest


def test_a_trial_that_does_badly_is_given_up_and_one_that_fails_is_not_chosen(tmp_path, scored):
    def score(config):
        if config.lr > 0.5:
            raise DivergedError("the models diverged")
        return peak(config)

    scored(score)
    space = "lr=0.0001,0.001,0.004,0.01,0.03,0.05,0.1,0.9"
    [choice] = study(tmp_path, space, 8, pruning=True, rounds=3).run(["fedavg"], QUIET).choices
    states = {trial.point["lr"]: trial.state for trial in choice.trials}
    assert states[0.9] == "failed"
    assert "pruned" in states.values()
    assert choice.point == {"lr": 0.05}
    assert all((trial.score is None) == (trial.state != "complete") for trial in choice.trials)


def test_a_folder_with_another_study_is_refused(tmp_path, scored):
    scored(peak)
    study(tmp_path).run(["fedavg"], QUIET)
    with pytest.raises(InputError, match="holds a study with other space, seeds"):
        study(tmp_path, "lr=0.1,0.2", seeds=(3,)).run(["fedavg"], QUIET)
    assert study(tmp_path, budget=9).run(["fedavg"], QUIET).choices  # more of the same is welcome


def test_what_was_tuned_is_what_compare_runs_and_its_trials_lie_beside_the_table(tmp_path, scored):
    scored(lambda config: peak(config) + 0.1 * ("lam=1" in config.strategy_args))
    written = study(tmp_path, "lr=0.03,0.3; ditto.lam=0.1,1", 4, batch_size=16).run(
        ["fedavg", "ditto"], QUIET
    )
    path, _ = written.write(tmp_path)
    tuned = read_tuned(path)
    assert tuned == written == read_tuned(tmp_path)
    rows = list(csv.DictReader(io.StringIO(tuned.trials_as_csv())))
    assert len(rows) == 2 + 4
    chosen = [
        (row["strategy"], row["lr"], row["ditto.lam"]) for row in rows if row["chosen"] == "1"
    ]
    assert chosen == [("fedavg", "0.03", ""), ("ditto", "0.03", "1")]
    base = tiny.config(batch_size=tuned.settings["batch-size"])
    runs = compare.plan(base, "ditto; fedavg", "1,2", tmp_path, tuned=tuned)
    assert [(r.strategy, r.strategy_args, r.lr, r.seed) for r in runs] == [
        ("ditto", "lam=1", 0.03, 1), ("ditto", "lam=1", 0.03, 2),
        ("fedavg", "", 0.03, 1), ("fedavg", "", 0.03, 2),
    ]  # fmt: skip
    with pytest.raises(InputError, match="seeds: settings were tuned on 101; report others"):
        compare.plan(base, "ditto", "101", tmp_path, tuned=tuned)
    with pytest.raises(InputError, match=r"pfa is not in .*, which has: fedavg; ditto"):
        compare.plan(base, "pfa", "1", tmp_path, tuned=tuned)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("--space lr=1e-3..1e-1 --select test", "settings are chosen on adapt images"),
        ("--space lr=0.1..0.01", "the first number must be below the second"),
        ("--space lr=log:0..1", "a logarithm needs numbers above 0"),
        ("--space lr=log:0.1", "log: is for a range"),
        ("--space lr=0.1,0.1", "give different values"),
        ("--space lr", "write name=values"),
        ("--space learning-rate=0.1", "is no setting of a run"),
        ("--space ditto.lam=1", "ditto is neither one of the strategies (fedavg) nor one of"),
        ("--space fedavg.mu=1", "fedavg has no argument 'mu'"),
        ("--space lr=-1.0..1.0", "lr: -1.0 is out of range"),
        ("--space seed=1,2", "seed has an option of its own"),
        ("--space lr=0.1,1 --lr 0.1", "it is in what is tried"),
        ("--space lr=0.1,1 --trials 0", "trials: 0; at least 1"),
        ("--space lr=0.1,1 --seeds 1,1", "seeds: 1 is given twice"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(line, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["tune", "--strategies", "fedavg", *line.split()])
    assert result.exit_code == 2
    assert what in result.output
    assert len(result.output.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
