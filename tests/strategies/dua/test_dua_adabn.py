"""AdaBN on top of DUA: the model that is tested has the user's statistics (DUA, sec. 3.3).

The paper's released code copied scale and shift only, and began with un-merged experts.
"""

from dataclasses import replace

import pytest
import tiny
import torch

from fedadapt.client.adaptations import registry as adaptations
from fedadapt.client.cohort import Schedule
from fedadapt.client.evaluation import evaluate
from fedadapt.client.statistics.batch_norm import batch_norm_statistics
from fedadapt.messages import Answers
from fedadapt.simulations.assembly import assemble, server_side
from fedadapt.strategies.dua.importance_store import InMemoryImportances
from fedadapt.strategies.dua.strategy import IMPORTANCE, DuaState

USERS = (0, 1, 2)
SOME = {
    **tiny.UNTRAINED,
    "benchmark": "digits-tasks",
    "model": tiny.NORM_MLP,
    "clients": len(USERS),
    "rounds": 2,
    "examples": 30,
    "strategy": "mas-racl",
    "strategy_args": "epochs=3 lr=0.02",
    "shift": "corruptions:3",
    "partition": "same-images:60",
    "adapt": "none,adabn,adabn-s",
}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Two tasks: the users' worker, and what they are served for the first one."""
    config = tiny.config(**SOME)
    assembly = assemble(config)
    place = tmp_path_factory.mktemp("adabn")
    server = assembly.worker.strategy.prepare(server_side(assembly, place))
    server = replace(server, importance_store=InMemoryImportances())
    for task in range(2):
        sent = server.send(DuaState(task, USERS), IMPORTANCE, task + 1, USERS)
        update = assembly.worker.answer(IMPORTANCE, task + 1, sent)
        server.merge(DuaState(task, USERS), IMPORTANCE, task + 1, [Answers(USERS, update)])
    [(_, models), _] = server.models_by_task(DuaState(2, USERS), list(USERS))
    return config, assembly.worker.at(0), models


@pytest.mark.parametrize("kind", ["base", "personal"])
def test_what_is_tested_after_adabn_has_the_users_own_statistics(learnt, kind):
    config, worker, models = learnt
    methods = {m.name: m for m in adaptations.parse(config)}
    cohort = worker.cohort(USERS, 2)
    schedule = Schedule(20, 1, "adapt", "adabn")
    own = models[kind] | batch_norm_statistics(cohort, models[kind], schedule)
    assert not torch.isclose(own["2.running_mean"], models[kind]["2.running_mean"]).any(1).all()
    wanted = evaluate(cohort, own, [split.test for split in cohort.splits])
    found = worker.evaluate(2, USERS, {kind: models[kind]}, adaptations=[methods["adabn"]]).rows
    assert [row.loss for row in found] == pytest.approx([score.loss for score in wanted])
    plain = worker.evaluate(2, USERS, {kind: models[kind]}, adaptations=[methods["none"]]).rows
    assert all(a.loss != b.loss for a, b in zip(found, plain, strict=True))


def test_adabn_begins_with_the_merged_model_and_moves_nothing_but_statistics(learnt):
    """Not with the un-merged expert, and scale and shift are the merge's."""
    config, worker, models = learnt
    methods = {m.name: m for m in adaptations.parse(config)}
    cohort = worker.cohort(USERS, 2)
    adapted = methods["adabn"].adapt(cohort, models["personal"])
    moved = {n for n, t in adapted.items() if not torch.equal(t, models["personal"][n])}
    assert moved == {"2.running_mean", "2.running_var"}
    with_more = methods["adabn-s"].adapt(cohort, models["personal"])
    moved = {n for n, t in with_more.items() if not torch.equal(t, models["personal"][n])}
    assert moved - {"2.num_batches_tracked"} == {
        "2.running_mean", "2.running_var", "2.weight", "2.bias",
    }  # fmt: skip
