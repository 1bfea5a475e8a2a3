"""Table 1 says what the code does: checked against the code when it runs."""

from dataclasses import replace

import pytest
import tiny
import torch
from toys import assert_same_bits

from fedadapt.client.adaptations import adabn_s, tuning
from fedadapt.client.adaptations.registry import build
from fedadapt.client.fit import fit
from fedadapt.client.statistics.importance import importances
from fedadapt.client.statistics.measures import MEASURES
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.reproductions.dua.command import experiment
from fedadapt.reproductions.dua.plan import METHODS
from fedadapt.reproductions.dua.published import TABLE_1
from fedadapt.reproductions.dua.traits import (
    ON_TOP,
    STAYS,
    Trainings,
    learning_tasks,
    reads_labels,
    table,
    trains,
    traits,
)
from fedadapt.simulations.assembly import assemble, server_side
from fedadapt.weights import repeat

TASKS, USERS = 3, 4
GIVEN = {**tiny.UNTRAINED, "benchmark": "digits-tasks", "clients": USERS, "rounds": TASKS,
         "examples": 20,
         "adapt": "none", "strategy_args": "epochs=1"}  # fmt: skip


@pytest.fixture(scope="module")
def lines():
    return {line[0]: line[1:] for line in table(experiment("dua-digits", {})[0]).lines}


def test_it_agrees_with_the_paper_where_the_paper_says_something(lines):
    assert set(lines) == {*METHODS, *ON_TOP, STAYS}
    for name, said in TABLE_1.items():
        adaptive, labels, *_ = lines[name]
        assert adaptive != "-"
        assert ("psi" in said) <= ("psi" in adaptive)
        assert ("phi" in said) <= ("phi" in adaptive)
        assert labels == ("no" if "unsupervised" in said else "yes")
    for name in set(METHODS) - set(TABLE_1):
        assert lines[name][:3] == ("-", "no", "nothing")


def test_what_leaves_the_client_is_what_the_server_expects(lines):
    assert lines["MAS-RACL"][2] == "importances (gradients of F), 4 bytes a parameter and task"
    assert lines["FIM-RACL"][2].startswith("importances (gradients of the loss), 4 bytes")
    assert lines[STAYS][2] == "nothing"
    assert traits("mas-racl", arguments="upload=fp16").leaves.split(", ")[1].startswith("2")


def test_the_released_fisher_needs_no_labels():
    assert traits("fim-racl").needs_labels
    assert not traits("fim-racl", arguments="preset=released").needs_labels


@pytest.mark.parametrize("kind", MEASURES)
def test_labels_are_needed_where_changing_them_changes_the_importances(kind):
    assembly = assemble(tiny.config(**GIVEN, strategy="mas-racl"))
    cohort = assembly.worker.cohort([0], 1)
    weights = repeat(assembly.model.state_dict(), 1)

    def turned(split: Split) -> Split:
        adapt = Examples(split.adapt.inputs, 1 - split.adapt.labels)
        return split._replace(adapt=adapt)

    other = replace(cohort, splits=tuple(map(turned, cohort.splits)))
    one, two = (importances(c, weights, kind=kind) for c in (cohort, other))
    differ = any(not torch.equal(one[n], two[n]) for n in one)
    assert reads_labels(kind) == differ
    if not differ:
        assert_same_bits(one, two)


@pytest.mark.parametrize("strategy", ["mas-racl", "task-experts", "ewc", "lwf", "joint"])
def test_the_server_trains_as_often_as_it_says(strategy, tmp_path, monkeypatch):
    from fedadapt.strategies.dua.experts import training as experts

    learn, calls = experts.learn, []
    monkeypatch.setattr(experts, "learn", lambda *given: calls.append(1) or learn(*given))
    config = tiny.config(**GIVEN, strategy=strategy)
    assembly = assemble(config)
    assembly.worker.strategy.prepare(server_side(assembly, tmp_path))
    assert len(calls) == traits(strategy).server.of(TASKS, USERS)


@pytest.mark.parametrize("name", ["none", "adabn", "adabn-s", "fine-tune"])
def test_users_train_as_often_as_it_says(name, monkeypatch):
    trained = []

    def counted(cohort, *arguments, **settings):
        trained.extend(cohort.clients)
        return fit(cohort, *arguments, **settings)

    for module in (adabn_s, tuning):
        monkeypatch.setattr(module, "fit", counted)
    config = tiny.config(**GIVEN, strategy="sequential", model=tiny.NORM_MLP)
    assembly = assemble(config)
    method = build(name, {}, "adapt")
    if name == "fine-tune":
        method = replace(method, epochs=1)
    for task in range(TASKS):
        cohort = assembly.worker.at(task).cohort(range(USERS), 1)
        method.adapt(cohort, repeat(assembly.model.state_dict(), USERS))
    assert len(trained) == traits("sequential", name).users.of(TASKS, USERS)
    assert trains(method) == bool(trained)


def test_trainings_are_a_function_of_tasks_and_users():
    assert [str(t) for t in (Trainings(), Trainings(1), Trainings(0, 1), Trainings(0, 0, 1))] == [
        "0", "1", "N", "N L"
    ]  # fmt: skip
    assert str(Trainings(1, 2, 1)) == "1 + 2 N + N L"
    assert Trainings(1, 2, 1).of(3, 4) == 1 + 2 * 3 + 3 * 4


def test_it_knows_every_strategy_there_is():
    for name, _ in learning_tasks():
        traits(name)
