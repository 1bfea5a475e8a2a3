"""Whose head answers for a task, and what each begins with."""

import pytest
import torch
from lessons import TASKS, experts, task, training, whole
from toys import assert_close, assert_same_bits, linear

from fedadapt.datasets.benchmark import Examples
from fedadapt.datasets.task_incremental.benchmark import Task
from fedadapt.errors import InputError
from fedadapt.models.network import Network
from fedadapt.strategies.dua.experts.train_task import fresh_head
from fedadapt.strategies.dua.experts.training import (
    head_for,
    slices,
    task_model,
)


def test_heads_live_in_the_model_with_lwf_and_beside_it_otherwise():
    names = [t.name for t in TASKS]
    lwf, imm = experts(training("lwf")), experts(training("imm"))
    assert slices(lwf[2].heads) == {names[0]: (0, 2), names[1]: (2, 5), names[2]: (5, 7)}
    for own, (first, last) in slices(lwf[2].heads).items():
        assert torch.equal(
            head_for(lwf, own)["head.weight"], lwf[2].head["head.weight"][first:last]
        )
        assert_same_bits(head_for(imm, own), imm[names.index(own)].head)
    assert not torch.equal(head_for(lwf, names[0])["head.weight"], lwf[0].head["head.weight"])
    assert_same_bits(task_model(imm, names[0]), imm[2].body | imm[0].head)
    with pytest.raises(InputError, match="experts: task: unknown 'task 9'"):
        head_for(imm, "task 9")


def test_joint_training_has_one_softmax_and_is_asked_slice_by_slice():
    [expert] = experts(training("joint"))
    assert expert.head["head.bias"].shape == (7,)
    assert slices(expert.heads)["task 2"] == (2, 5)
    assert_same_bits(head_for([expert], "task 2"), {n: t[2:5] for n, t in expert.head.items()})
    one = Task("all", ("a",) * 7, *(
        Examples(torch.cat([getattr(t, part).inputs for t in TASKS]),
                 torch.cat([getattr(t, part).labels + s for t, s in zip(TASKS, (0, 2, 5),
                                                                        strict=True)]))
        for part in ("train", "validation")))  # fmt: skip
    assert_close(expert.weights, experts(training("fine-tune"), [one])[0].weights)


def test_fresh_heads_are_torchs_default_and_a_function_of_seed_and_task():
    net = Network(torch.nn.Flatten(), 400, 3).double()
    state = torch.get_rng_state()
    drawn = fresh_head(net, 5, 1, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert {n: tuple(t.shape) for n, t in drawn.items()} == {
        "head.weight": (5, 400), "head.bias": (5,)}  # fmt: skip
    bound = 1 / 400**0.5
    assert 0.98 * bound < drawn["head.weight"].abs().max() <= bound
    assert drawn["head.weight"].std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert_same_bits(fresh_head(net, 5, 1, 1), drawn)
    for other in (fresh_head(net, 5, 2, 1), fresh_head(net, 5, 1, 2)):
        assert not torch.isclose(other["head.weight"], drawn["head.weight"]).all()


def test_softmax_regression_without_a_body_is_an_expert_too():
    made = experts(whole("fine-tune"), [task(1)], make=lambda: linear(16))
    assert made[0].body == {}
    assert set(made[0].head) == {"head.weight", "head.bias"}
