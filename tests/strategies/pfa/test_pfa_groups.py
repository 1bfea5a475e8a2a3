"""PFA's settings, and its server when clients answer late, unequally or with too few groups."""

import pytest
import tiny
import torch
import toys

from fedadapt.errors import InputError
from fedadapt.messages import Answers, Update
from fedadapt.server.clustering.grouping import group_clients
from fedadapt.strategies.clusters import Clusters, formed
from fedadapt.strategies.pfa.strategy import PFA, SPARSITY
from fedadapt.strategies.registry import select
from fedadapt.weights import row, stack

START = toys.initial(toys.dense())
LEFT, RIGHT = [0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0]


def pfa(**how: object) -> PFA:
    given = {"training": toys.training(), "federated_rounds": 1, "groups": 2, "q": 5}
    return PFA(model=toys.dense(), image_shape=toys.SHAPE, **{**given, **how})


def vectors(said: dict[int, list[float]]) -> list[Answers]:
    """Clients that answer with these sparsity vectors."""
    report = {"sparsity": torch.tensor(list(said.values()))}
    return [Answers(tuple(said), Update({}, torch.ones(len(said)).double(), report=report))]


def trained(examples: dict[int, float]) -> tuple[list[Answers], list]:
    """Clients that trained to models of their own, and those models."""
    models = [toys.initial(toys.dense(), seed=client) for client in examples]
    counts = torch.tensor(list(examples.values()), dtype=torch.float64)
    return [Answers(tuple(examples), Update(stack(models), counts))], models


@pytest.mark.parametrize(
    "wrong",
    [{"method": "best"}, {"preset": "mine"}, {"q": 0}, {"groups": 0}, {"groups": 2.0},
     {"federated_rounds": -1}, {"regroup_every": -1}, {"epsilon": -0.1}, {"layer": ""},
     {"random": True, "groups": None}, {"random": True, "dp_epsilon": 1.0}],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_refused_before_any_round(wrong):
    with pytest.raises(ValueError, match=next(reversed(wrong)).replace("_", ".")):
        pfa(**wrong)


@pytest.mark.parametrize(
    ("words", "settings", "said"),
    [("groups=11", {}, "groups: 11 of 10 clients"), ("", {"rounds": 1}, "rounds: 1"),
     ("federated_rounds=0", {}, "normalization")],
)  # fmt: skip
def test_a_run_without_room_for_groups_is_refused_in_one_line(words, settings, said):
    config = tiny.config(strategy="pfa", clients=10, strategy_args=words, **settings)
    with pytest.raises(InputError, match=said) as error:
        select(config)
    assert "\n" not in str(error.value)


def test_a_client_that_is_late_joins_the_nearest_group_and_nobody_moves():
    strategy = pfa()
    state = strategy.begin(START, [0, 1, 2, 3, 4])
    early = {0: LEFT, 1: LEFT, 2: RIGHT, 3: RIGHT}
    state = strategy.merge(state, SPARSITY, 2, vectors(early))
    answers, models = trained({0: 1.0, 2: 1.0, 4: 1.0})
    state = strategy.merge(state, "train", 2, answers)
    toys.assert_close(row(strategy.models(state, [4])["personal"], 0), START)  # it has no group
    assert strategy.actions(state, 3)[0] == SPARSITY
    assert strategy.send(state, SPARSITY, 3, [0, 4]).clients == (4,)
    state = strategy.merge(state, SPARSITY, 3, vectors({4: [0.75, 1.0, 1.0, 0.5, 1.0]}))
    assert state.clusters.of == {0: 0, 1: 0, 2: 1, 3: 1, 4: 1}
    toys.assert_close(row(strategy.models(state, [4])["personal"], 0), models[1])
    assert SPARSITY not in strategy.actions(state, 4)


@pytest.mark.parametrize(("preset", "share"), [("paper", 0.75), ("released", 0.5)])
def test_clients_weigh_by_examples_or_all_alike_before_groups_and_in_them(preset, share):
    strategy = pfa(preset=preset, groups=1)
    for round, model in ((1, "base"), (2, "personal")):
        state = strategy.begin(START, [0, 1])
        if model == "personal":
            state = strategy.merge(state, SPARSITY, 2, vectors({0: LEFT, 1: RIGHT}))
        answers, (few, many) = trained({0: 10.0, 1: 30.0})
        state = strategy.merge(state, "train", round, answers)
        found = row(strategy.models(state, [0])[model], 0)
        wanted = {n: (1 - share) * few[n] + share * many[n] for n in few}
        floats = [n for n in found if found[n].is_floating_point()]
        toys.assert_close({n: found[n] for n in floats}, {n: wanted[n] for n in floats})


def test_groups_say_what_made_them_in_the_end_also_after_a_checkpoint():
    """Two kinds equally far from the reference: efficient was asked for, pairs were compared."""
    corners = torch.zeros(3, 4)
    corners[1, 1] = corners[2, 2] = 1.0
    corners[0, 0] = 2.0
    kinds = corners.repeat_interleave(6, 0)
    kinds += 1e-3 * torch.randn(18, 4, generator=torch.Generator().manual_seed(0))
    made = formed(dict(enumerate(kinds)), group_clients(kinds, method="efficient"), START, None, 2)
    tensors, metadata = made.pack()
    for groups in (made, Clusters.unpack(tensors, metadata)):
        assert groups.describe()["method"] == "exact"


def test_fewer_clients_than_groups_are_that_many_groups_and_a_warning(caplog):
    strategy = pfa(groups=3)
    state = strategy.begin(START, [0, 1, 2])
    state = strategy.merge(state, SPARSITY, 2, vectors({0: LEFT, 1: RIGHT}))
    assert len(state.clusters.models) == 2
    assert "3 groups of 2 clients" in caplog.text
