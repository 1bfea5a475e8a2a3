"""DUA: whose importances merge which experts, where, and what becomes of a bad answer."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from toys import assert_close, assert_same_bits, copied

from fedadapt.client.statistics.importance import importances
from fedadapt.messages import Answers, Update
from fedadapt.server.mode_merge import mode_merge
from fedadapt.simulations.assembly import assemble, server_side
from fedadapt.simulations.check import check
from fedadapt.simulations.results.parquet import read_communication, read_evaluations, read_tasks
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.dua import strategy as dua_strategy
from fedadapt.strategies.dua.importance_store import InMemoryImportances, OnDiskImportances
from fedadapt.strategies.dua.strategy import IMPORTANCE, DuaState
from fedadapt.weights import num_bytes, repeat, row

TASKS = {
    **tiny.UNTRAINED,
    "benchmark": "digits-tasks",
    "clients": 4,
    "rounds": 3,
    "examples": 40,
    "adapt": "none",
}
ARGUMENTS = "epochs=6 lr=0.02"


def config(strategy: str = "mas-racl", arguments: str = "", **changes: object):
    words = f"{ARGUMENTS} {arguments}".strip()
    return tiny.config(**{**TASKS, "strategy": strategy, "strategy_args": words, **changes})


@pytest.fixture(scope="module")
def side(tmp_path_factory):
    """A server with three experts and four users: the strategy, the users' worker."""

    def make(strategy: str = "mas-racl", arguments: str = ""):
        made = config(strategy, arguments)
        assembly = assemble(made)
        folder = tmp_path_factory.getbasetemp() / "dua"
        server = assembly.worker.strategy.prepare(server_side(assembly, folder))
        return replace(server, importance_store=InMemoryImportances()), assembly

    return make


def ask(strategy, assembly, task: int, clients=range(4), corrupt_reply=None):
    """One round: every client's answer, folded into the server's."""
    sent = strategy.send(DuaState(task, tuple(clients)), IMPORTANCE, task + 1, tuple(clients))
    update = assembly.worker.answer(IMPORTANCE, task + 1, sent)
    if corrupt_reply:
        update = corrupt_reply(update)
    state = DuaState(task, tuple(clients))
    state = strategy.merge(state, IMPORTANCE, task + 1, [Answers(tuple(clients), update)])
    return strategy.end(state, task + 1), update


def learnt(strategy, assembly, tasks: int = 3):
    for task in range(tasks):
        state, _ = ask(strategy, assembly, task)
    return state


def models_by_task(strategy, state, clients=range(4)):
    return dict(strategy.models_by_task(state, list(clients)))


def test_a_personal_trunk_is_the_mode_of_the_experts_by_that_users_importances(side):
    strategy, assembly = side()
    state = learnt(strategy, assembly)
    models = models_by_task(strategy, state)
    head = {"head.weight", "head.bias"}
    for client in (0, 3):
        omegas = []
        for task, expert in enumerate(strategy.experts):
            worker = assembly.worker.at(task)
            found = importances(
                worker.cohort([client], task + 1), repeat(expert.weights, 1), exclude=head
            )
            omegas.append(row(found, 0))
        wanted = mode_merge([expert.body for expert in strategy.experts], omegas)
        mine = {n: t[client] for n, t in models[1]["personal"].items() if n not in head}
        assert_close(mine, wanted, rtol=1e-5, atol=1e-6)


def test_users_differ_and_the_base_is_the_servers_own_merge(side):
    strategy, assembly = side()
    state = learnt(strategy, assembly)
    models = models_by_task(strategy, state)[0]
    wanted = mode_merge([e.body for e in strategy.experts], strategy.server_importances)
    found = {n: t[2] for n, t in models["base"].items() if not n.startswith("head")}
    assert_same_bits(found, wanted)
    weight = models["personal"]["body.hidden1.weight" if "body.hidden1.weight" in wanted
                                else next(n for n in wanted if n.endswith("weight"))]  # fmt: skip
    assert not torch.equal(weight[0], weight[1])


def test_each_task_is_answered_by_the_head_it_was_learnt_with(side):
    strategy, assembly = side()
    models = models_by_task(strategy, learnt(strategy, assembly))
    assert list(models) == [0, 1, 2]
    for task, expert in enumerate(strategy.experts):
        for kind in ("base", "personal"):
            for name, tensor in expert.head.items():
                assert torch.equal(models[task][kind][name][1], tensor)


def test_after_one_task_everybody_has_its_expert(side):
    strategy, assembly = side()
    models = models_by_task(strategy, learnt(strategy, assembly, tasks=1))
    assert list(models) == [0]
    for kind in ("base", "personal"):
        assert_close(row(models[0][kind], 3), strategy.experts[0].weights, rtol=0, atol=0)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_user_with_impossible_importances_is_named_and_the_others_are_not(side, bad):
    strategy, assembly = side()

    def corrupt_reply(update: Update) -> Update:
        weights = copied(update.weights)
        weights[min(weights)][2].view(-1)[5] = bad
        return replace(update, weights=weights)

    _, update = ask(strategy, assembly, 0, corrupt_reply=corrupt_reply)
    found = strategy.validation_errors(IMPORTANCE, update)
    assert list(found) == [2]
    assert "importances must be finite and >= 0" in found[2]


def test_a_user_who_did_not_answer_for_every_task_has_the_base(side):
    strategy, assembly = side()
    ask(strategy, assembly, 0)
    state, _ = ask(strategy, assembly, 1, clients=(0, 1, 3))
    models = models_by_task(strategy, state)[0]
    for name, tensor in models["base"].items():
        assert torch.equal(models["personal"][name][2], tensor[2])
    assert any(not torch.equal(models["personal"][n][1], t[1]) for n, t in models["base"].items())


def test_users_are_merged_alike_one_by_one_and_many_at_a_time(side, monkeypatch):
    strategy, assembly = side()
    ask(strategy, assembly, 0)
    state, _ = ask(strategy, assembly, 1, clients=(0, 1, 3))
    wanted = models_by_task(strategy, state)[0]["personal"]
    for size in (1, 2 * 2 * num_bytes(strategy.experts[0].body)):
        monkeypatch.setattr(dua_strategy, "IMPORTANCES_AT_ONCE", size)
        assert_same_bits(models_by_task(strategy, state)[0]["personal"], wanted)


def test_both_importance_stores_give_back_what_was_put(tmp_path):
    for importance_store in (InMemoryImportances(), OnDiskImportances(tmp_path)):
        first, second = {"w": torch.rand(3, 2)}, {"w": torch.rand(3, 2)}
        importance_store.put((0, 7), second)
        importance_store.put((0, 7), first)
        importance_store.put((1, 7), second)
        assert_same_bits(importance_store.get((0, 7)), first)
        assert_same_bits(importance_store.get((1, 7)), second)
        assert importance_store.get((2, 7)) is None
    again = InMemoryImportances()
    states = InMemoryImportances()
    states.put((3, 4), first)
    again.unpack(states.pack())
    assert_same_bits(again.get((3, 4)), first)


# Whole runs


def run(folder, strategy: str = "mas-racl", arguments: str = "", **changes):
    given = {**TASKS, "strategy": strategy, "strategy_args": f"{ARGUMENTS} {arguments}".strip()}
    return tiny.run(folder, **{**given, **changes})


@pytest.fixture
def _bare(monkeypatch):
    tiny.without_pictures(monkeypatch)


@pytest.mark.usefixtures("_bare")
def test_merging_on_the_client_gives_the_same_models_and_uploads_no_importance(tmp_path):
    here = run(tmp_path / "server")
    there = run(tmp_path / "client", arguments="merge_on=client")
    found, wanted = (read_evaluations(tmp_path / where) for where in ("client", "server"))
    assert [r[:9] for r in found] == [r[:9] for r in wanted]
    assert np.allclose([r.loss for r in found], [r.loss for r in wanted], rtol=1e-4)
    asked = [r for r in read_communication(tmp_path / "client") if r.action == IMPORTANCE]
    assert {r.bytes_up for r in asked} == {8}  # a weight of one, and nothing else
    assert here["tasks"].keys() == there["tasks"].keys() == {"base", "personal"}


@pytest.mark.usefixtures("_bare")
def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    answer = Worker.answer

    def stop(self, action, number, sent, states=()):
        if number == 2:
            raise KeyboardInterrupt
        return answer(self, action, number, sent, states)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "answer", stop)
        with pytest.raises(Exception, match="go on with"):
            run(tmp_path / "cut")
    again = run(tmp_path / "cut", resume=True)
    assert tiny.timeless(again) == tiny.timeless(whole)


@pytest.mark.usefixtures("_bare")
@pytest.mark.parametrize("strategy", ["task-experts", "sequential", "ewc", "mas", "lwf", "joint"])
def test_every_way_of_learning_serves_every_task(tmp_path, strategy):
    summary = run(tmp_path, strategy)
    assert list(summary["tasks"]) == ["base"]
    matrix = summary["tasks"]["base"]["matrix"]
    assert [[v is not None for v in line] for line in matrix] == [
        [True, False, False], [True, True, False], [True, True, True]
    ]  # fmt: skip
    assert summary["tasks"]["base"]["accuracy"] > 0.6
    rows = read_tasks(tmp_path)
    assert [(r.client, r.task) for r in rows] == [(d, t) for d in range(4) for t in range(3)]
    mean = sum(r.forgetting for r in rows) / 4 / 2  # of two tasks something can be forgotten
    assert mean == pytest.approx(summary["tasks"]["base"]["forgetting"], abs=1e-6)
    if strategy in ("task-experts", "joint"):
        assert summary["tasks"]["base"]["forgetting"] == 0


@pytest.mark.usefixtures("_bare")
def test_adaptations_come_on_top_of_personal_models(tmp_path):
    summary = run(tmp_path, adapt="none,fine-tune", adapt_args="fine-tune.epochs=2")
    assert list(summary["tasks"]) == ["base", "base+fine-tune", "personal", "personal+fine-tune"]


@pytest.mark.usefixtures("_bare")
def test_a_fresh_user_needs_no_training(tmp_path, monkeypatch):
    """The point of the paper: experts are there, a user is served by answering."""
    run(tmp_path / "first", arguments=f"expert_folder={tmp_path / 'experts'}")

    def trained(*arguments, **settings):
        raise AssertionError("something was trained")

    monkeypatch.setattr("fedadapt.strategies.dua.experts.training.learn", trained)
    run(tmp_path / "second", arguments=f"expert_folder={tmp_path / 'experts'}", clients=6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategy": "fedavg", "strategy_args": ""}, "is learnt task after task by the server"),
        ({"benchmark": "digits-classes"}, "mas-racl needs one with tasks: dua-numbers"),
        ({"rounds": 6}, "a round is a task, and digits-tasks has 5: set rounds=5 or less"),
        ({"strategy_args": "upload=fp8"}, "strategy-args: upload: unknown 'fp8'"),
        ({"strategy_args": "draw=9"}, "draw: 9 is out of range; it must be >= 1 and <= 5"),
        (
            {"strategy": "ewc", "strategy_args": "upload=fp16"},
            "strategy-args: ewc has no argument 'upload'",
        ),
        ({"strategy_args": "epochs=2.5"}, "epochs: expected int, got float 2.5"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(changes, said):
    with pytest.raises(Exception, match=said) as caught:
        check(tiny.config(**{**TASKS, "strategy": "mas-racl", "strategy_args": "", **changes}))
    assert "\n" not in str(caught.value)
