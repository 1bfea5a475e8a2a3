"""The presets of DUA, value by value, and merging on a client that took part in an earlier run."""

import pytest
import tiny
import torch
from toys import assert_close, cohort, conv, initial, split

from fedadapt.client.statistics.importance import importances
from fedadapt.messages import Sent
from fedadapt.server.mode_merge import mode_merge
from fedadapt.simulations.assembly import assemble, server_side
from fedadapt.strategies.dua.experts.importance import expert_importances
from fedadapt.strategies.dua.strategy import IMPORTANCE, DuaState
from fedadapt.strategies.dua.variants import MasRacl
from fedadapt.strategies.registry import select
from fedadapt.weights import repeat, row

TASKS = {
    **tiny.UNTRAINED,
    "benchmark": "digits-tasks",
    "clients": 4,
    "rounds": 2,
    "examples": 40,
    "adapt": "none",
}


def config(strategy: str, arguments: str):
    return tiny.config(**TASKS, strategy=strategy, strategy_args=f"epochs=1 lr=0.02 {arguments}")


@pytest.mark.parametrize(
    ("strategy", "preset", "kind", "granularity", "floor"),
    [
        ("mas-racl", "paper", "mas", "sample", 0.0),
        ("fim-racl", "paper", "fisher", "sample", 0.0),
        ("mas-racl", "released", "mas", "batch", 0.0),
        ("fim-racl", "released", "true-fisher", "batch", 1e-8),
    ],
)
def test_users_are_asked_for_what_the_preset_says(strategy, preset, kind, granularity, floor):
    selected = select(config(strategy, f"preset={preset}"))
    asked = selected.cls(model=conv(), **selected.arguments).importance_request
    assert (asked.kind, asked.granularity, asked.floor) == (kind, granularity, floor)
    assert asked.batch_size == 20
    assert (asked.upload, asked.stays) == ("fp32", False)


@pytest.mark.parametrize(("preset", "dead"), [("paper", "mean"), ("released", "zero")])
def test_a_parameter_that_matters_to_nobody_is_the_mean_or_zero(preset, dead, tmp_path):
    made = config("mas-imm", f"preset={preset}")
    assembly = assemble(made)
    strategy = assembly.worker.strategy.prepare(server_side(assembly, tmp_path))
    assert strategy.zero_importance == dead
    state = DuaState(learnt=2, clients=(0,))
    omegas = strategy.server_importances
    idle = {n: (omegas[0][n] == 0) & (omegas[1][n] == 0) for n in omegas[0]}
    assert any(t.any() for t in idle.values())
    *_, (_, models) = strategy.models_by_task(state, [0])
    bodies = [expert.body for expert in strategy.experts]
    for n, where in idle.items():
        mean = (bodies[0][n] + bodies[1][n]) / 2
        wanted = mean[where] if dead == "mean" else torch.zeros_like(mean[where])
        torch.testing.assert_close(models["base"][n][0][where], wanted)


@pytest.mark.parametrize(
    ("preset", "how"),
    [
        ("paper", {"split": "validation"}),
        ("released", {"split": "train+validation", "granularity": "batch", "batch_size": 20}),
    ],
)
def test_server_importances_are_of_the_images_that_the_preset_says(preset, how, tmp_path):
    made = config("mas-imm", f"preset={preset}")
    assembly = assemble(made)
    network, tasks = assembly.model, assembly.tasks
    strategy = assembly.worker.strategy.prepare(server_side(assembly, tmp_path))
    how = {"kind": "mas", "scaling": tasks.scaling, "seed": made.seed, **how}
    for expert, task, found in zip(
        strategy.experts, tasks.tasks, strategy.server_importances, strict=False
    ):
        assert_close(found, expert_importances(network, expert, task, **how))


def test_a_client_that_merges_by_itself_forgets_an_earlier_run():
    """What it added up then belongs to other experts, and other tasks."""
    strategy = MasRacl(model=conv(), merge_on="client")
    request = strategy.importance_request
    clients = [split(9, seed=d) for d in range(2)]
    states = ({}, {})

    def ask(expert, task):
        config = {"server-round": task + 1, "task": task, **request.to_config()}
        sent = Sent((10, 11), repeat(expert, 2), config)
        update = strategy.answer(IMPORTANCE, cohort(conv(), clients, states=states), sent)
        own = [{part: row(t, d) for part, t in update.states.items()} for d in range(2)]
        return tuple(states[d] | own[d] for d in range(2))

    experts = [initial(conv(), seed) for seed in range(5)]
    for task, expert in enumerate(experts[:3]):  # an earlier run, of three tasks
        states = ask(expert, task)
    for task, expert in enumerate(experts[3:]):
        states = ask(expert, task)
    members = cohort(conv(), clients, states=states, round=2)
    found = strategy.localise(members, repeat(experts[4], 2), "personal")
    head = {"head.weight", "head.bias"}
    omegas = [importances(members, repeat(e, 2), exclude=head) for e in experts[3:]]
    for d in range(2):
        wanted = mode_merge(experts[3:], [row(omega, d) for omega in omegas])
        assert_close({n: found[n][d] for n in omegas[0]}, {n: wanted[n] for n in omegas[0]})
