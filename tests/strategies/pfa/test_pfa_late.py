"""PFA's defaults, and which group a client that comes late joins."""

import pytest
import torch
import toys

from fedadapt.messages import Answers, Update
from fedadapt.strategies.pfa.strategy import PFA, SPARSITY

NEAR, FAR = [0.0] * 5, [1.0] * 5


def said(vectors: dict[int, list[float]]) -> list[Answers]:
    report = {"sparsity": torch.tensor(list(vectors.values()))}
    return [Answers(tuple(vectors), Update({}, torch.ones(len(vectors)).double(), report=report))]


@pytest.mark.parametrize(
    ("vector", "group"),
    [
        ([0.0, 0.4, 1.0, 1.0, 1.0], 1),  # the first channels are those of the first group
        ([1.0, 1.0, 0.0, 0.0, 0.0], 0),
        ([0.0, 0.0, 0.0, 1.0, 1.0], 0),  # the last channels are those of the second group
        ([1.0, 1.0, 1.0, 0.0, 0.0], 1),
        ([0.0, 1.0, 0.4, 1.0, 1.0], 1),  # every other channel is nearer to the first group
        ([1.0, 0.0, 1.0, 0.9, 1.0], 1),
    ],
)
def test_a_late_client_joins_by_all_of_its_channels(vector, group):
    strategy = PFA(
        model=toys.dense(),
        image_shape=toys.SHAPE,
        training=toys.training(),
        federated_rounds=1,
        groups=2,
        q=5,
    )
    state = strategy.begin(toys.initial(toys.dense()), [0, 1, 2, 3, 4])
    state = strategy.merge(state, SPARSITY, 2, said({0: NEAR, 1: NEAR, 2: FAR, 3: FAR}))
    state = strategy.merge(state, SPARSITY, 3, said({4: vector}))
    assert state.clusters.of == {0: 0, 1: 0, 2: 1, 3: 1, 4: group}


@pytest.mark.parametrize(("rounds", "federated"), [(80, 50), (16, 10), (8, 5), (5, 3), (2, 1)])
def test_five_eighths_of_the_rounds_are_federated_unless_told(rounds, federated):
    """The paper has 50 of 80."""
    strategy = PFA(model=toys.dense(), image_shape=toys.SHAPE, rounds=rounds)
    state = strategy.begin(toys.initial(toys.dense()), [0, 1])
    asked = [n for n in range(1, rounds + 1) if SPARSITY in strategy.actions(state, n)]
    assert asked[0] == federated + 1
    alone = PFA(model=toys.dense(), image_shape=toys.SHAPE)
    assert SPARSITY not in alone.actions(state, 50)
    assert SPARSITY in alone.actions(state, 51)
