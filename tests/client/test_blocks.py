"""A network cut into blocks, and the choice of those that fit a budget."""

import itertools

import pytest
import torch

from fedadapt.client.blocks import UNITS, Blocks, best_choice, greedy_choice

SHAPES = {"weight": (4, 3, 3), "bias": (4,)}
CUT = Blocks.of(SHAPES, parts=5, least=0.2)


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_first_block_is_the_least_share_and_the_rest_is_cut_evenly():
    assert CUT.lengths == {"weight": (7, 8, 7, 7, 7), "bias": (1, 1, 1, 1)}
    assert CUT.protected == (True, *[False] * 8)  # 0.2 of four is none
    assert CUT.sizes == (7, 8, 7, 7, 7, 1, 1, 1, 1)
    assert CUT.total == 40


def test_a_small_tensor_has_fewer_blocks_and_a_number_has_one():
    cut = Blocks.of({"a": (), "b": (2,), "c": (10,)}, parts=4, least=0.3)
    assert cut.lengths == {"a": (1,), "b": (1, 1), "c": (3, 3, 2, 2)}
    assert cut.total == 13


def test_every_scalar_gets_the_value_of_its_block_as_it_is_stored():
    values = drawn(2, 9)
    found = CUT.spread(values)
    assert {n: tuple(t.shape) for n, t in found.items()} == {"weight": (2, 4, 3, 3), "bias": (2, 4)}
    for d in range(2):
        flat = torch.cat([t[d].flatten() for t in found.values()])
        sizes = torch.tensor(CUT.sizes)
        assert torch.equal(flat, values[d].repeat_interleave(sizes))


def test_a_known_answer_where_importance_first_is_not_the_best():
    importance = torch.tensor([[0.9, 0.6, 0.6]])
    assert best_choice([3, 2, 2], importance, 4).tolist() == [[False, True, True]]
    assert greedy_choice([3, 2, 2], importance, 4).tolist() == [[True, False, False]]
    assert greedy_choice([3, 2, 1], importance, 4).tolist() == [[True, False, True]]


@pytest.mark.parametrize("seed", range(10))
def test_the_best_choice_is_the_best_of_all_there_are(seed):
    random = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 30, (9,), generator=random)
    capacity = int(torch.randint(0, int(sizes.sum()), (), generator=random))
    importance = torch.rand(3, 9, generator=random, dtype=torch.float64)
    every = torch.tensor(list(itertools.product([0, 1], repeat=9)))
    fitting = every[every @ sizes <= capacity].double()
    found = best_choice(sizes.tolist(), importance, capacity)
    assert (found.long() @ sizes <= capacity).all()
    best = (importance @ fitting.T).max(1).values
    torch.testing.assert_close((found * importance).sum(1), best, rtol=0, atol=1e-5)
    greedy = greedy_choice(sizes.tolist(), importance, capacity)
    assert (greedy.long() @ sizes <= capacity).all()
    assert ((greedy * importance).sum(1) <= best + 1e-5).all()


def test_of_blocks_of_one_size_the_most_important_are_chosen_either_way():
    importance = drawn(20, 8)
    exact, greedy = (choose([5] * 8, importance, 23) for choose in (best_choice, greedy_choice))
    assert torch.equal(exact, greedy)
    assert (exact.sum(1) == 4).all()
    last = importance.masked_fill(~exact, 2).min(1).values
    assert (importance.masked_fill(exact, -1).max(1).values <= last).all()


def test_a_large_budget_is_counted_in_units_and_still_held():
    sizes = [UNITS * 3 + 1, UNITS * 2 + 5, UNITS + 7, UNITS * 4, 3, 2]
    capacity = UNITS * 5 + 20
    chosen = best_choice(sizes, drawn(50, 6), capacity)
    assert (chosen.long() @ torch.tensor(sizes) <= capacity).all()
    assert (chosen.long() @ torch.tensor(sizes) > capacity / 2).all()
    a_little_too_much = best_choice([UNITS * 5 + 4] * 2, drawn(5, 2), UNITS * 10)
    assert (a_little_too_much.sum(1) == 1).all()


def test_rounding_errors_of_equal_importances_decide_nothing():
    equal = torch.full((1, 6), 0.5, dtype=torch.float64)
    noise = (drawn(20, 6) - 0.5) * 1e-15
    for choose in (best_choice, greedy_choice):
        wanted = choose([3, 2, 4, 1, 2, 3], equal, 7)
        found = choose([3, 2, 4, 1, 2, 3], equal + noise, 7)
        assert torch.equal(found, wanted.expand(20, -1))


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize("capacity", [8, 20, 39, 40])
def test_protected_blocks_are_always_chosen_within_the_budget(capacity, greedy):
    importance = drawn(30, 9)
    importance[:, 0] = 0
    chosen = CUT.best(importance, capacity, greedy=greedy)
    assert (chosen[:, 0] == 1).all()
    assert (chosen @ torch.tensor(CUT.sizes).double() <= capacity).all()
    assert (CUT.share(chosen) <= capacity / 40 + 1e-12).all()
    if capacity == 40:
        assert (chosen == 1).all()
