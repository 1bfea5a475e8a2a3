"""DUA through Flower's messages, and under a real ``flwr run``: the personal models of one process.

And a user who answers something impossible, on either engine: refused by number, the others served.
"""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from fake_grid import FakeGrid, edited
from flwr.app import Context, RecordDict
from flwr_command import flower_command, run_flower
from safetensors.torch import load_file
from toys import assert_close

from fedadapt.client.evaluation import evaluate
from fedadapt.config import RunConfig
from fedadapt.flower import as_flower
from fedadapt.flower.client_app import app
from fedadapt.flower.grid_over_clients import flower_identity
from fedadapt.flower.records import array_record, tensors
from fedadapt.flower.server_app import app as server
from fedadapt.simulations.assembly import assemble, server_side
from fedadapt.simulations.results.parquet import read_communication, read_evaluations
from fedadapt.simulations.worker import Worker
from fedadapt.strategies.dua.strategy import IMPORTANCE

NODES = (901, 17, 530, 88)  # node NODES[d] holds user d
SOME = {
    **tiny.UNTRAINED,
    "benchmark": "digits-tasks",
    "clients": len(NODES),
    "rounds": 2,
    "examples": 30,
    "adapt": "none",
    "min_replies": 0.5,
}


@pytest.fixture(autouse=True)
def _task(monkeypatch):
    tiny.without_pictures(monkeypatch)
    with flower_identity():
        yield


@pytest.fixture(scope="module")
def experts(tmp_path_factory) -> Path:
    """Where they are kept: trained once."""
    return tmp_path_factory.mktemp("experts")


def settings(experts: Path, strategy: str = "mas-racl", more: str = "") -> dict:
    words = f"epochs=2 lr=0.02 expert_folder={experts} {more}".strip()
    return {**SOME, "strategy": strategy, "strategy_args": words}


def grid_of(folder: Path, given: dict) -> tuple[FakeGrid, dict]:
    assemble.cache_clear()
    config = tiny.config(out=str(folder), **given).to_mapping()
    disks = folder.parent / f"{folder.name}-disks"
    nodes = {
        node: {
            "partition-id": user,
            "num-partitions": len(NODES),
            "state-dir": str(disks / str(user)),
        }
        for user, node in enumerate(NODES)
    }
    return FakeGrid(app, nodes, config), config


def run_server(grid: FakeGrid, config: dict) -> dict:
    server(grid, Context(1, 1, {}, RecordDict(), config))
    return json.loads((Path(config["out"]) / "summary.json").read_text())


def assert_same_results(found: Path, wanted: Path, rtol: float = 1e-5) -> None:
    """Every user's score on every task by either model, after every task; and the bytes."""
    here, there = (sorted(read_evaluations(folder)) for folder in (wanted, found))
    assert [row[:9] for row in there] == [row[:9] for row in here]
    assert np.allclose([row.loss for row in there], [row.loss for row in here], rtol=rtol)
    kind = ("round", "client", "action", "outcome", "bytes_down", "bytes_up")
    asked = [
        sorted(tuple(getattr(row, n) for n in kind) for row in read_communication(folder)
               if row.action == IMPORTANCE)
        for folder in (wanted, found)
    ]  # fmt: skip
    assert asked[0] == asked[1]
    assert len(asked[0]) == SOME["rounds"] * len({row[1] for row in asked[0]})


@pytest.mark.parametrize(
    ("strategy", "more"),
    [
        ("mas-racl", ""),
        ("fim-racl", "preset=released"),
        ("mas-racl", "upload=log8"),
        ("mas-racl", "upload=difference share=0.2"),
        ("mas-racl", "merge_on=client"),
    ],
)
def test_over_a_grid_everybody_gets_the_models_of_one_process(tmp_path, experts, strategy, more):
    given = settings(experts, strategy, more)
    tiny.run(tmp_path / "here", **given)
    run_server(*grid_of(tmp_path / "there", given))
    assert_same_results(tmp_path / "there", tmp_path / "here")


def nan(weights):
    weights[min(weights)].view(-1)[0] = math.nan


def negative(weights):
    weights[min(weights)].view(-1)[0] = -1e-3


def reshaped(weights):
    weights[min(weights)] = weights[min(weights)].reshape(-1, 1).clone()


def nameless(weights):
    del weights[min(weights)]


BAD = {
    nan: "NaN",
    negative: "importances must be finite and >= 0",
    reshaped: "shape",
    nameless: "missing",
}


def assert_one_was_refused(folder: Path, said: str) -> None:
    """User 2, by number; it has the base, the others have models of their own."""
    asked = [row for row in read_communication(folder) if row.action == IMPORTANCE]
    assert [row.client for row in asked if row.outcome != "accepted"] == [2, 2]
    assert all(said in row.reason for row in asked if row.client == 2)
    final = [row for row in read_evaluations(folder) if row.round == 2]
    losses = {(row.client, row.task, row.model): row.loss for row in final}
    for client in range(len(NODES)):
        same = [losses[client, t, "personal"] == losses[client, t, "base"] for t in range(2)]
        assert same == [client == 2] * 2


@pytest.mark.parametrize("corrupt_reply", BAD)
def test_over_a_grid_a_user_with_impossible_importances_is_refused(
    tmp_path, experts, corrupt_reply
):
    def change(content: RecordDict) -> None:
        weights = tensors(content["arrays"])
        corrupt_reply(weights)
        content["arrays"] = array_record(weights)

    grid, config = grid_of(tmp_path / "run", settings(experts))
    grid.faults[IMPORTANCE, NODES[2]] = edited(change)
    run_server(grid, config)
    assert_one_was_refused(tmp_path / "run", BAD[corrupt_reply])


@pytest.mark.parametrize("corrupt_reply", BAD)
def test_in_one_process_a_user_with_impossible_importances_is_refused(
    tmp_path, experts, monkeypatch, corrupt_reply
):
    answer = Worker.answer

    def corrupted(self, action, number, sent, states=()):
        update = answer(self, action, number, sent, states)
        if action != IMPORTANCE or sent.clients != (2,):
            return update
        weights = {n: t[0].clone() for n, t in update.weights.items()}
        corrupt_reply(weights)
        return replace(update, weights={n: t.unsqueeze(0) for n, t in weights.items()})

    monkeypatch.setattr(Worker, "answer", corrupted)
    tiny.run(tmp_path / "run", **settings(experts), workers=1, cohort_size=1)
    assert_one_was_refused(tmp_path / "run", BAD[corrupt_reply])


def test_in_a_stock_server_app_the_same_models_are_served(tmp_path, experts):
    """``as_flower`` under Flower's own ``start()``: a round a task."""
    given = settings(experts)
    tiny.run(tmp_path / "here", **given)
    grid, config = grid_of(tmp_path / "there", given)
    made = RunConfig.from_mapping(config)
    assembly = assemble(made)
    dua = assembly.worker.strategy.prepare(server_side(assembly, tmp_path / "there"))
    flower = as_flower(dua)
    start = array_record(dict(assembly.model.state_dict()))
    logging.getLogger("flwr").setLevel(logging.ERROR)
    flower.start(grid=grid, initial_arrays=start, num_rounds=SOME["rounds"])
    assert flower.state.learnt == 2
    losses = {(r.client, r.task): r.loss for r in read_evaluations(tmp_path / "here")
              if r.round == 2 and r.model == "personal"}  # fmt: skip
    for task, models in dua.models_by_task(flower.state, NODES):  # by node, as its clients are
        cohort = assembly.worker.at(task).cohort(range(len(NODES)), 2)
        tests = [split.test for split in cohort.splits]
        found = evaluate(cohort, models["personal"], tests)
        assert [s.loss for s in found] == pytest.approx(
            [losses[user, task] for user in range(len(NODES))], rel=1e-4
        )


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.timeout(240)
def test_flwr_run_personalises_as_one_process_does(tmp_path, experts):
    given = settings(experts) | {"clients": 2}
    tiny.run(tmp_path / "here", **given)
    run_config = {name.replace("_", "-"): value for name, value in given.items()}
    with flower_command(tmp_path) as flwr:
        run_flower(flwr, 2, tiny.SETTINGS | {"adapt-args": ""} | run_config
                   | {"clients": 0, "out": tmp_path / "there"})  # fmt: skip
    assert_same_results(tmp_path / "there", tmp_path / "here", rtol=1e-4)
    for place in (f"task-{task}/{user}.safetensors" for task in range(2) for user in range(2)):
        mine, wanted = (
            load_file(tmp_path / where / "importances" / place) for where in ("there", "here")
        )
        assert_close(mine, wanted, rtol=1e-4, atol=1e-7)
