"""RACL's running sums on the client, when tasks are missed or asked twice."""

import pytest
import torch
from toys import assert_close, assert_same_bits, cohort, conv, initials, split

from fedadapt.server.mode_merge import mode_merge
from fedadapt.strategies.dua.on_client import added, merged_there
from fedadapt.weights import row

SPLITS = [split(5, seed=1), split(6, seed=2)]
NAMES = [n for n, _ in conv().named_parameters() if not n.startswith("head")]


def expert(task):
    return {n: t for n, t in initials(conv(), 2, seed=task).items() if n in NAMES}


def omega(task):
    random = torch.Generator().manual_seed(50 + task)
    shapes = {n: t.shape for n, t in expert(task).items()}
    return {n: torch.rand(shape, generator=random) for n, shape in shapes.items()}


def told(states, task, clients=(0, 1)):
    """The states after these clients have answered for a task; the others' are as they were."""
    members = cohort(conv(), SPLITS, states=tuple(states), round=task + 1)
    update = added(members, expert(task), omega(task), task=task)
    return [
        {part: row(w, d) for part, w in update.items()} if d in clients else states[d]
        for d in range(2)
    ]


def merged(states, learnt):
    members = cohort(conv(), SPLITS, states=tuple(states), round=learnt)
    return merged_there(members, expert(99))


def wanted(client, tasks):
    return mode_merge(
        [row(expert(task), client) for task in tasks], [row(omega(task), client) for task in tasks]
    )


def test_the_sums_are_the_servers_merge():
    states = [{}, {}]
    for task in range(3):
        states = told(states, task)
    trunk = merged(states, 3)
    for client in range(2):
        assert_close(row(trunk, client), wanted(client, range(3)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("missed", [0, 1, 2])
def test_a_client_that_missed_a_task_uses_what_came_as_on_the_server(missed):
    states = [{}, {}]
    for task in range(3):
        states = told(states, task, clients=(0,) if task == missed else (0, 1))
    trunk = merged(states, 3)
    assert_close(row(trunk, 0), wanted(0, range(3)), rtol=1e-5, atol=1e-6)
    assert_same_bits(row(trunk, 1), row(expert(99), 1))


def test_a_task_that_is_asked_twice_counts_once():
    states = told(told([{}, {}], 0), 1)
    again = told(states, 1)
    for before, after in zip(states, again, strict=True):
        for part in before:
            assert_same_bits(after[part], before[part])
    assert_same_bits(merged(told(again, 2), 3), merged(told(states, 2), 3))


def test_the_first_task_begins_anew():
    states = told(told(told([{}, {}], 0), 1), 0)
    assert_same_bits(merged(states, 1), merged(told([{}, {}], 0), 1))
