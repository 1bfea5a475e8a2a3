"""Methods of the literature on top of ``fit``: by hand, in their limits, stacked = one by one."""

import pytest
import torch
from sketches import (
    Ditto,
    FedRod,
    Ifca,
    everywhere,
    rounds,
)
from torch import nn
from toys import (
    CLASSES,
    Quadratic,
    assert_close,
    cohort,
    conv,
    dense,
    initial,
    plain,
    quadratic_split,
    split,
    view_of,
)

from fedadapt.client.cohort import Schedule
from fedadapt.client.evaluation import evaluate
from fedadapt.client.fit import Sgd, fit
from fedadapt.models.network import Network
from fedadapt.models.resnet import BasicBlock
from fedadapt.objectives import Batch, Proximal, cross_entropy
from fedadapt.weights import repeat, row

SPLITS = [split(count, seed=d) for d, count in enumerate((5, 7, 6))]
OTHERS = ("per-client", "stacked-kernels", "vmap")
SGD, SCHEDULE = Sgd(0.1, 0.5), Schedule(4)


def residual():
    """A convolution and a residual block with batch norm and a shortcut that is a convolution."""
    body = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), BasicBlock(3, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return Network(body, 4, CLASSES)


NETWORKS = {"mlp": dense, "cnn with batch norm": conv, "residual": residual}


def methods(make):
    start = initial(make())
    yield "ditto", Ditto(SGD, SCHEDULE, 0.3)
    yield "fedrod", FedRod(SGD, SCHEDULE)
    yield "ifca", Ifca(SGD, SCHEDULE, (start, initial(make(), 5)))


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("name", [name for name, _ in methods(dense)])
def test_stacked_is_one_by_one(name, make):
    method = dict(methods(make))[name]
    found = everywhere(method, make, SPLITS, ("sequential", *OTHERS))
    alone = found["sequential"]
    for execution in OTHERS:
        together = found[execution]
        assert_close(together.base, alone.base)
        assert_close(together.personal, alone.personal)
        for own, wanted in zip(together.states, alone.states, strict=True):
            assert own.keys() == wanted.keys()
            for part in wanted:
                assert_close(own[part], wanted[part])
    if name != "ifca":  # two clients may choose one model
        assert not all(torch.allclose(t[0], t[1]) for t in alone.personal.values())


# By hand: L = (w - c)^2 / 2 + 1 on two clients with c = 0 and 4, one step of 1/2 from 10

TARGETS = (0.0, 4.0)
HALF, ONCE = Sgd(0.5), Schedule(1)


def toys(execution="sequential"):
    return cohort(Quadratic(), [quadratic_split(1.0, c) for c in TARGETS], execution)


def at(value):
    return {"w": torch.tensor(value, dtype=torch.float64)}


def numbers(weights, name="w"):
    return pytest.approx(weights[name].tolist(), rel=1e-12)


def toy_rounds(method, number, members=None, start=10.0):
    return rounds(method, members or toys(), at(start), number)


@pytest.mark.parametrize("execution", ["sequential", "vmap"])
def test_fedavg_by_hand(execution):
    found = fit(toys(execution), repeat(at(10.0), 2), HALF, ONCE)
    assert numbers(found.weights) == [5, 7]
    assert found.loss.tolist() == pytest.approx([51, 19], rel=1e-12)


def test_ditto_by_hand():
    one, two = (toy_rounds(Ditto(HALF, ONCE), number) for number in (1, 2))
    assert numbers(one.personal) == [5, 7]
    assert one.base["w"].item() == pytest.approx(6)
    assert numbers(two.personal) == [3, 5]
    assert two.base["w"].item() == pytest.approx(4)


def test_fedamp_by_hand():
    near = Proximal(0.5)  # lam / alpha_k
    cloud = {
        "w": torch.tensor([5 + 2 * 0.5 * 2.718281828459045**-1, 7 - 2.718281828459045**-1]).double()
    }
    start = {"w": torch.tensor([5.0, 7.0]).double()}
    found = fit(toys(), start, HALF, ONCE, objective=near, memory={"anchor": cloud})
    assert found.weights["w"].tolist() == pytest.approx([2.59197, 5.40803], abs=1e-5)


def test_ifca_by_hand():
    method = Ifca(HALF, ONCE, (at(1.0), at(5.0)))
    update = method.answer(toys(), repeat(method.start({}), 2))
    assert update.report["choice"].tolist() == [0, 1]
    assert numbers(update.weights) == [0.5, 4.5]


# Limits: what a method is when the part of it that is new is switched off


def fedavg(make, execution="sequential"):
    return rounds(Ditto(SGD, SCHEDULE), cohort(make(), SPLITS, execution), initial(make())).base


# FedRoD and FedProto: what their objectives do with features


def seen(model, weights, batch, memory, extra):
    """A view of one client's network, with gradients."""
    params = {n: t[None].clone().requires_grad_() for n, t in weights.items()} | extra
    z = (
        batch.inputs[0].flatten(1) @ params["body.1.weight"][0].T + params["body.1.bias"][0]
    ).tanh()
    logits = z @ params["head.weight"][0].T + params["head.bias"][0]
    return view_of(logits[None], params, batch, memory, z[None])


def test_balanced_softmax_by_hand_and_the_personal_head_moves_nothing_else():
    zero = {n: torch.zeros_like(t) for n, t in initial(plain()).items()}
    inputs = SPLITS[1].train.inputs[None, :1]
    hp = {"hp.weight": torch.zeros(1, 3, 5).double(), "hp.bias": torch.zeros(1, 3).double()}
    hp = {n: t.requires_grad_() for n, t in hp.items()}
    prior = {"prior": {"log": torch.tensor([[3.0, 1.0, 0.0]]).double().log()}}
    objective = FedRod(SGD, SCHEDULE).objective
    for label, wanted in ((1, 1.386294), (0, 0.287682)):
        view = seen(plain(), zero, Batch(inputs, torch.tensor([[label]])), prior, hp)
        plain_loss = cross_entropy(view).item()
        assert objective(view).item() - plain_loss == pytest.approx(wanted, abs=1e-6)
    view = seen(plain(), initial(plain()), Batch(inputs, torch.tensor([[0]])), prior, hp)
    both = objective(view) - cross_entropy(
        view.with_logits(view.logits + prior["prior"]["log"].unsqueeze(1))
    )
    names = [n for n in view.params if not n.startswith("hp")]
    grads = torch.autograd.grad(
        both.sum(), [view.params[n] for n in names], allow_unused=True, materialize_grads=True
    )
    assert max(g.abs().max().item() for g in grads) < 1e-15


def test_the_folded_heads_are_the_sum_of_both():
    members = cohort(conv(), SPLITS)
    method = FedRod(SGD, SCHEDULE)
    found = rounds(method, members, initial(conv()))
    x = torch.stack([s.test.inputs for s in SPLITS])
    base = repeat(found.base, 3)
    z = members.features(base, x)
    for d, state in enumerate(found.states):
        own = z[d] @ state["hp"]["hp.weight"].T + state["hp"]["hp.bias"]
        logits = z[d] @ found.base["head.weight"].T + found.base["head.bias"] + own
        [score] = evaluate(members.only(d), repeat(row(found.personal, d), 1), [SPLITS[d].test])
        wanted = nn.functional.cross_entropy(logits, SPLITS[d].test.labels)
        assert score.loss == pytest.approx(wanted.item(), rel=1e-9)
