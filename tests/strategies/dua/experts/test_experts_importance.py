"""What experts remember of a task, and what the server's own images say of them."""

import pytest
import torch
from lessons import SEED, TASKS, experts, network, omega_of, training
from toys import as_they_are, assert_close, assert_same_bits, conv, dense

from fedadapt.client.cohort import Schedule
from fedadapt.errors import InputError
from fedadapt.strategies.dua.experts.data import cohort_of
from fedadapt.strategies.dua.experts.training import (
    expert_importances,
    task_model,
)


@pytest.mark.parametrize("method", ["ewc", "mas"])
@pytest.mark.parametrize("make", [dense, conv])
def test_importances_are_positive_summed_over_tasks_and_move_no_statistics(method, make):
    found = experts(training(method), make=make)
    total = {}
    for expert, own in zip(found, TASKS, strict=True):
        model = network(make)
        model.head = torch.nn.Linear(model.head.in_features, len(own.classes)).double()
        model.load_state_dict(expert.weights)
        statistics = {n: t.clone() for n, t in model.named_buffers()}
        for n, t in omega_of(model.eval(), own, method).items():
            total[n] = total.get(n, 0) + t
        assert_close(expert.importance, total)
        assert all(t.sum() > 0 for t in expert.importance.values())
        assert_same_bits({n: expert.body[n] for n in statistics}, statistics)


@pytest.mark.parametrize("batch_size", [24, 10])
def test_ewc_in_batches_squares_the_gradient_of_the_summed_loss(batch_size):
    """Over the number of images: of 24 images in tens, the last batch has four."""
    [expert] = experts(training("ewc", granularity="batch", batch_size=batch_size), TASKS[:1])
    model = network()
    model.head = torch.nn.Linear(5, 2).double()
    model.load_state_dict(expert.weights)
    images = TASKS[0].train
    cohort = cohort_of(network(), TASKS[0], 1, scaling=as_they_are, seed=SEED, compute="cpu")
    steps = cohort.steps(Schedule(batch_size, 1, "train", "importance"))
    names = list(expert.importance)
    wanted = dict.fromkeys(names, 0)
    sizes = []
    for [(_, batch)] in steps:
        logits = model.eval()(batch.inputs[0])
        summed = torch.nn.functional.cross_entropy(logits, batch.labels[0], reduction="sum")
        grads = torch.autograd.grad(summed, [model.get_parameter(n) for n in names])
        wanted = {n: wanted[n] + g**2 / len(images) for n, g in zip(names, grads, strict=True)}
        sizes.append(len(batch.labels[0]))
    assert sizes == ([24] if batch_size == 24 else [10, 10, 4])
    assert_close(expert.importance, wanted, rtol=1e-8)


@pytest.mark.parametrize("kind", ["mas", "fisher"])
def test_server_importances_are_of_the_body_under_the_tasks_own_head(kind):
    found = experts(training("lwf"))
    expert, own = found[2], TASKS[2]
    model = network()
    model.head = torch.nn.Linear(5, 2).double()
    model.load_state_dict(task_model(found, own.name))
    model.eval()
    how = {"kind": kind, "scaling": as_they_are}

    def wanted(examples):
        return omega_of(model, own._replace(train=examples), "mas" if kind == "mas" else "ewc")

    val, train = wanted(own.validation), wanted(own.train)
    assert_close(expert_importances(network(), expert, own, **how), val)
    both = expert_importances(network(), expert, own, split="train+validation", **how)
    if kind == "mas":  # one mean over 24 + 12 images
        assert_close(both, {n: (2 * train[n] + t) / 3 for n, t in val.items()})
    else:  # the sum of two means
        assert_close(both, {n: train[n] + t for n, t in val.items()})
    with pytest.raises(InputError, match="experts: split: unknown 'test'"):
        expert_importances(network(), expert, own, split="test", **how)
