"""Experts: every method against its formula in plain torch, and what must hold for all of them."""

from dataclasses import replace

import pytest
import torch
from lessons import (
    LAMBDAS,
    SEED,
    STRENGTHS,
    TASKS,
    experts,
    in_plain_torch,
    network,
    training,
    whole,
)
from torch.func import functional_call
from toys import as_they_are, assert_close, assert_same_bits, conv, dense, initial, plain, view_of

from fedadapt.client.evaluation import evaluate
from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Examples, Scaling
from fedadapt.datasets.task_incremental.benchmark import Task
from fedadapt.models.build import build_model
from fedadapt.objectives import Batch, cross_entropy
from fedadapt.strategies.dua.experts.data import cohort_of
from fedadapt.strategies.dua.experts.objectives import plan
from fedadapt.strategies.dua.experts.train_task import fresh_head
from fedadapt.strategies.dua.experts.training import (
    METHODS,
    ExpertTraining,
    TaskHead,
    task_model,
    train_experts,
)
from fedadapt.weights import repeat


def accuracy(net, found, name, after=-1):
    [own] = [t for t in TASKS if t.name == name]
    cohort = cohort_of(net, own, 0, scaling=as_they_are, seed=0, compute="cpu")
    [score] = evaluate(cohort, repeat(task_model(found, name, after), 1), [own.validation])
    return score.accuracy


@pytest.mark.parametrize("make", [dense, conv])
@pytest.mark.parametrize("method", STRENGTHS)
def test_each_method_is_its_formula_in_plain_torch(method, make):
    found = experts(training(method), make=make)
    wanted = in_plain_torch(method, STRENGTHS[method], make=make)
    for expert, state in zip(found, wanted, strict=True):
        assert_close(expert.weights, {n: state[n] for n in expert.weights}, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", LAMBDAS)
def test_strength_is_read_from_the_methods_own_field_and_counts_from_task_two(method):
    first, second = TASKS[:2]
    wanted = experts(training(method), [first, second])
    for name, field in LAMBDAS.items():
        other = experts(replace(training(method), **{field: 1.5}), [first, second])
        assert_same_bits(other[0].weights, wanted[0].weights)
        same = all(torch.equal(other[1].body[n], t) for n, t in wanted[1].body.items())
        assert same is (name != method)


@pytest.mark.parametrize(("method", "number"), [("imm", 2), ("imm", 3), ("ewc", 2), ("mas", 2)])
def test_a_penalty_pulls_the_trunk_by_2_lambda_omega_d_and_never_the_head(method, number):
    own = TASKS[number - 1]
    last = experts(training(method), TASKS[: number - 1])[-1]
    heads = (TaskHead(own.name, len(own.classes)),)
    fresh = fresh_head(network(), len(own.classes), SEED, number)
    wanted = plan(training(method), number, heads, fresh, last)
    model, body = network(), initial(dense(), seed=9)
    params = {n: body[n] for n, _ in model.named_parameters()} | {
        n: t + 1 for n, t in fresh.items()
    }

    def gradient(objective):
        def value(params):
            logits = functional_call(model.eval(), params, (own.train.inputs,))[None]
            batch = Batch(own.train.inputs[None], own.train.labels[None])
            stacked = {n: t[None] for n, t in params.items()}
            return objective(view_of(logits, stacked, batch, wanted.memory)).sum()

        return torch.func.grad(value)(params)

    pulled, free = gradient(wanted.objective), gradient(cross_entropy)
    pull = {n: pulled[n] - free[n] for n in params}
    for n, t in pull.items():
        if n in fresh:
            assert t.eq(0).all()
        else:
            omega = last.importance[n] if method != "imm" else 1.0
            right = 2 * STRENGTHS[method] * omega * (params[n] - last.body[n])
            assert right.abs().sum() > 0
            torch.testing.assert_close(t, right, rtol=1e-9, atol=1e-12)


def test_released_l2_transfer_begins_with_task_three_and_holds_the_fresh_head():
    late = {"l2_lambda": 5.0, "l2_from_task": 3, "l2_head": True, "epochs": 20, "momentum": 0.0}
    found, free = experts(whole(**late)), experts(whole("fine-tune", epochs=20, momentum=0.0))
    assert_same_bits(found[1].weights, free[1].weights)
    start = fresh_head(network(), 2, SEED, 3)["head.weight"]
    assert (found[2].head["head.weight"] - start).norm() < 0.5 * (
        free[2].head["head.weight"] - start
    ).norm()


@pytest.mark.parametrize("method", METHODS)
def test_two_tasks_are_learnt(method):
    gentle = {"l2_lambda": 0.01, "ewc_lambda": 1.0, "mas_lambda": 0.01}
    found = experts(whole(method, epochs=25, batch_size=6, **gentle), TASKS[:2], make=plain)
    for own in TASKS[:2]:
        after = -1 if method == "joint" else TASKS.index(own)
        assert accuracy(network(plain), found, own.name, after) >= 0.9


@pytest.mark.parametrize("method", [m for m in METHODS if m != "joint"])
def test_the_first_task_is_the_same_for_all_and_a_task_depends_on_none_after_it(method):
    found = experts(training(method, batch_size=5))
    assert_same_bits(found[0].weights, experts(training("imm", batch_size=5))[0].weights)
    some = experts(training(method, batch_size=5), TASKS[:2])
    grown = experts(training(method, batch_size=5), TASKS[2:], previous=some)
    assert grown[:2] == some
    assert_same_bits(grown[2].weights, found[2].weights)
    assert_same_bits(grown[2].importance, found[2].importance)
    assert grown[2].key == found[2].key


def test_nothing_given_is_modified_and_the_seed_decides():
    net = network()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    settings = training("imm", batch_size=5)
    one = train_experts(net, TASKS, settings, scaling=as_they_are, seed=1)
    assert_same_bits(net.state_dict(), before)
    assert net.training
    two = train_experts(net, TASKS, settings, scaling=as_they_are, seed=1)
    other = train_experts(net, TASKS, settings, scaling=as_they_are, seed=2)
    assert_same_bits(one[2].weights, two[2].weights)
    assert not torch.isclose(one[2].body["body.1.weight"], other[2].body["body.1.weight"]).all()


def test_pairs_of_real_digits_are_learnt_and_penalties_forget_less(data_root):
    from torchvision.datasets import MNIST

    digits = MNIST(str(data_root), train=True)

    def pair(a, b):
        own = ((digits.targets == a) | (digits.targets == b)).nonzero()[:400, 0]
        images, labels = digits.data[own, None], (digits.targets[own] == b).long()
        parts = (Examples(images[:300], labels[:300]), Examples(images[300:], labels[300:]))
        return Task(f"{a}{b}", (str(a), str(b)), *parts)

    pairs = [pair(0, 1), pair(2, 3), pair(4, 5)]
    net = build_model(RunConfig(model="mlp"), (1, 28, 28), 2)
    scaling = Scaling((0.1307,), (0.3081,))

    def forgotten(method):
        settings = ExpertTraining.paper(method, epochs=8, batch_size=20, mas_lambda=10.0)
        found = train_experts(net, pairs, settings, scaling=scaling, seed=7)
        assert min(e.accuracy for e in found) > 0.9
        cohort = cohort_of(net, pairs[0], 0, scaling=scaling, seed=0, compute="cpu")
        [score] = evaluate(cohort, repeat(task_model(found, "01"), 1), [pairs[0].validation])
        return score.loss

    free = forgotten("fine-tune")
    assert all(forgotten(method) < free for method in ("ewc", "mas"))
