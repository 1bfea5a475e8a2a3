"""Several models in one message, of which each client picks one."""

import pytest
import torch
from toys import (
    Quadratic,
    assert_same_bits,
    cohort,
    conv,
    initial,
    initials,
    quadratic_split,
    split,
)

from fedadapt.client.candidates import best_of, join_models, pick, split_models
from fedadapt.client.evaluation import evaluate
from fedadapt.errors import InputError
from fedadapt.weights import repeat, row

SPLITS = [split(4, adapt=count, seed=count) for count in (3, 11, 7)]
EXECUTIONS = ("sequential", "per-client", "stacked-kernels", "vmap")


def test_models_under_one_set_of_names_come_apart_again():
    models = [initials(conv(), 3, seed=k) for k in range(11)]
    joined = join_models(models)
    assert "10/head.bias" in joined
    backwards = dict(reversed(joined.items()))
    for found, wanted in zip(split_models(backwards), models, strict=True):
        assert found.keys() == wanted.keys()
        assert_same_bits({n: found[n] for n in wanted}, wanted)
    assert split_models({"0/a/b": torch.ones(2)})[0].keys() == {"a/b"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["head.bias"], "'head.bias'; a name must begin with its model's number"),
        (["x/head.bias"], "'x/head.bias'"),
        (["0/w", "2/w"], "no model 1 among 2"),
    ],
)
def test_names_without_a_models_number_are_errors(names, message):
    with pytest.raises(InputError, match=message):
        split_models({n: torch.zeros(1) for n in names})


@pytest.mark.parametrize("part", ["train", "adapt"])
@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("own", [False, True], ids=["one for all", "one for each"])
def test_the_best_is_that_of_least_loss_in_evaluation_mode(execution, part, own):
    seeds = range(0, 50, 10)
    models = [initials(conv(), 3, s) if own else repeat(initial(conv(), s), 3) for s in seeds]
    members = cohort(conv(), SPLITS, execution)
    losses = [[s.loss for s in evaluate(members, m, members.part(part))] for m in models]
    wanted = torch.tensor(losses).argmin(0)
    assert len(set(wanted.tolist())) > 1
    found = best_of(members, models, part)
    assert found.dtype == torch.int64
    assert found.tolist() == wanted.tolist()
    turned = best_of(members, models[::-1], part)
    assert (4 - turned).tolist() == wanted.tolist()
    chosen = pick(models, found)
    for d, k in enumerate(found.tolist()):
        assert_same_bits(row(chosen, d), row(models[k], d))


def test_by_hand_and_of_equal_ones_the_first_and_never_one_that_diverged():
    members = cohort(Quadratic(), [quadratic_split(1.0, c) for c in (0.0, 4.0)])

    def at(value):
        return repeat({"w": torch.tensor(value, dtype=torch.float64)}, 2)

    assert best_of(members, [at(1.0), at(5.0)], "train").tolist() == [0, 1]
    assert best_of(members, [at(2.0), at(2.0)], "train").tolist() == [0, 0]
    assert best_of(members, [at(float("nan")), at(9.0)], "train").tolist() == [1, 1]
