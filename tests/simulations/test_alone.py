"""Local: what clients get when they train alone, beside every other row of a run."""

from dataclasses import replace

import pytest
from toy_run import METHODS, SETTINGS, SPLITS, START, Run, assert_same_run
from toys import Toys, assert_same_bits, cohort, conv, initial, training

from fedadapt.client.cohort import Schedule
from fedadapt.client.evaluation import evaluate
from fedadapt.client.fit import fit
from fedadapt.config import RunConfig
from fedadapt.records import CommunicationEntry, Evaluation
from fedadapt.simulations.alone import TrainingAlone, local_epochs
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.weights import num_bytes, repeat


def settings(**changes) -> RunConfig:
    return replace(SETTINGS, evaluate_every=9, **changes)


@pytest.mark.parametrize(
    ("fraction", "rounds", "each", "epochs"),
    [(1.0, 20, 5, 100), (0.5, 4, 5, 10), (0.01, 50, 5, 2), (0.01, 3, 1, 1)],
)
def test_the_budget_is_that_of_a_client_in_the_federation(fraction, rounds, each, epochs):
    config = RunConfig(fraction=fraction, rounds=rounds, local_epochs=each)
    assert local_epochs(config) == epochs


def test_training_alone_is_rounds_of_local_training_without_a_federation():
    how = training(0.1, 2, momentum=0.5)
    members = cohort(conv(), SPLITS[:3], seed=5, round=4)
    wanted = repeat(START, 3)
    for done, epochs in ((0, 2), (2, 2), (4, 1)):
        order = Schedule(how.batch_size, epochs, "train", f"local/{done}")
        wanted = fit(members, wanted, how.optimizer, order).weights
    assert_same_bits(TrainingAlone(how, 5, START).train(members), wanted)
    elsewhere = TrainingAlone(how, 5, initial(conv(), 9))
    assert_same_bits(elsewhere.train(members, repeat(START, 3)), wanted)


def test_the_row_is_of_every_client_unseen_ones_too_and_nothing_is_adapted(tmp_path):
    run = Run(tmp_path, settings(), adaptations=METHODS[1:3]).go()
    rows = [r for r in run.rows(Evaluation) if r.model == "local"]
    assert [(r.client, r.round, r.label, r.split) for r in rows] == [
        (d, 4, "local", "test") for d in range(6)
    ]
    assert {r.client for r in rows if not r.seen} == {5}
    members = cohort(conv(), SPLITS, clients=range(6), seed=5, round=4)
    weights = TrainingAlone(training(0.1, 2, momentum=0.5), 10, START).train(members)
    wanted = evaluate(members, weights, [s.test for s in SPLITS])
    assert [r.loss for r in rows] == pytest.approx([s.loss for s in wanted], rel=1e-9)


def test_it_changes_no_other_number(tmp_path):
    without = Run(tmp_path / "without", settings(local=False)).go()
    found = Run(tmp_path / "with", settings()).go()
    assert_same_bits(found.state, without.state)
    others = [r for r in found.rows(Evaluation) if r.model != "local"]
    assert others == without.rows(Evaluation)


@pytest.mark.parametrize(("is_sent", "down"), [(False, 0), (True, num_bytes(START))])
def test_initial_weights_that_a_client_cannot_make_are_sent_to_it(tmp_path, is_sent, down):
    run = Run(tmp_path, settings(), adaptations=METHODS[:1], initial_is_sent=is_sent).go()
    last = [e for e in run.rows(CommunicationEntry) if (e.action, e.round) == ("evaluate", 4)]
    assert [e.bytes_down for e in last] == [num_bytes(START)] * 6 + [down] * 6
    assert {e.phase for e in last} == {"evaluation"}
    plain = Run(tmp_path / "made", settings(), adaptations=METHODS[:1]).go()
    assert run.rows(Evaluation) == plain.rows(Evaluation)


def test_it_is_the_same_in_worker_processes_and_stacked(tmp_path):
    wanted = Run(tmp_path / "here", settings(), adaptations=METHODS[:1]).go()
    there = {"adaptations": METHODS[:1], "num_workers": 2, "cohort_size": 2}
    assert_same_run(Run(tmp_path / "there", settings(), **there).go(), wanted)
    stacked = {"adaptations": METHODS[:1], "execution": "stacked-kernels", "cohort_size": 4}
    rows = Run(tmp_path / "stacked", settings(), **stacked).go().rows(Evaluation)
    for found, one in zip(rows, wanted.rows(Evaluation), strict=True):
        assert found[:9] == one[:9]
        assert found.loss == pytest.approx(one.loss, rel=1e-7)


def test_a_model_made_on_the_client_comes_from_the_base_and_what_the_client_keeps():
    class Kept(FedAvg):
        def localise(self, cohort, weights, model="base"):
            return cohort.state("own", weights) if model == "personal" else weights

    strategy = Kept(training=training(), model=conv())
    worker = Worker(Toys(SPLITS), conv(), strategy, METHODS[:1], seed=3)
    own = {"own": initial(conv(), 8)}
    rows = worker.evaluate(
        1, (0, 1), {"base": repeat(START, 2)}, [own, {}],
        adaptations=METHODS[:1], on_client=("personal",),
    ).rows  # fmt: skip
    loss = {(r.client, r.model): r.loss for r in rows}
    [score] = evaluate(cohort(conv(), SPLITS[:1]), repeat(own["own"], 1), [SPLITS[0].test])
    assert loss[0, "personal"] == pytest.approx(score.loss)
    assert loss[1, "personal"] == loss[1, "base"]


def test_a_model_made_on_the_client_is_tried_and_costs_no_download(tmp_path, monkeypatch):
    run = Run(tmp_path, settings(local=False), adaptations=METHODS[:1])
    monkeypatch.setattr(type(run.method), "made_on_client", ("personal",))
    run.go()
    assert {(r.round, r.label) for r in run.rows(Evaluation)} >= {(4, "base"), (4, "personal")}
    evaluated = [e for e in run.rows(CommunicationEntry) if e.action == "evaluate"]
    assert {e.bytes_down for e in evaluated} == {num_bytes(START)}
