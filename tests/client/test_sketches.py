"""Methods of the literature on top of ``fit``: by hand, in their limits, stacked = one by one."""

import pytest
import torch
from sketches import (
    Ditto,
    FedAla,
    FedProto,
    FedRod,
    Ifca,
    Prototypes,
    class_means,
    everywhere,
    merged_prototypes,
    rounds,
)
from torch import nn
from toys import (
    CLASSES,
    Quadratic,
    assert_close,
    assert_same_bits,
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
from fedadapt.selectors import everything
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
    yield "fedala", FedAla(SGD, SCHEDULE)
    yield "fedproto", FedProto(SGD, SCHEDULE, net=start)
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


@pytest.mark.parametrize(("rate", "mixing", "start"), [(0.025, 0.4, 3.6), (1.0, 0.0, 2.0)])
def test_fedala_by_hand(rate, mixing, start):
    method = FedAla(HALF, ONCE, share=1.0, rate=rate, top=everything)
    members = cohort(Quadratic(), [quadratic_split(1.0, 0.0)], states=({"old": at(2.0)},))
    weights, a = method.mixture(members, repeat(at(6.0), 1))
    assert [mixing] == numbers(a, "a/w")  # the gradient is 6 * 4 = 24
    assert [start] == numbers(weights)


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


def test_prototypes_of_all_are_weighted_by_how_many_images_there_are():
    p = torch.tensor([[[1.0]], [[5.0]]])
    assert merged_prototypes(p, torch.tensor([[3.0], [1.0]]))["p"].item() == 2


def test_class_means_are_those_of_each_class():
    members, weights = cohort(conv(), SPLITS), repeat(initial(conv()), 3)
    means = class_means(members, weights, CLASSES)
    for d, own in enumerate(SPLITS):
        z = members.only(d).features(repeat(initial(conv()), 1), own.train.inputs[None])[0]
        for c in range(CLASSES):
            chosen = own.train.labels == c
            assert means["n"][d, c] == chosen.sum()
            if chosen.any():
                torch.testing.assert_close(means["p"][d, c], z[chosen].mean(0))


# Limits: what a method is when the part of it that is new is switched off


def fedavg(make, execution="sequential"):
    return rounds(Ditto(SGD, SCHEDULE), cohort(make(), SPLITS, execution), initial(make())).base


@pytest.mark.parametrize("execution", ["sequential", "stacked-kernels"])
def test_fedala_without_a_rate_is_fedavg(execution):
    members = cohort(conv(), SPLITS, execution)
    still = FedAla(SGD, SCHEDULE, rate=0.0)
    assert_close(rounds(still, members, initial(conv())).base, fedavg(conv, execution))


def test_fedproto_without_its_pull_is_what_was_never_federated():
    method = FedProto(SGD, SCHEDULE, lam=0.0, net=initial(conv()))
    members = cohort(conv(), SPLITS)
    own = [s["net"] for s in rounds(method, members, initial(conv())).states]
    alone = rounds(Ditto(SGD, SCHEDULE, 0.0), members, initial(conv())).personal
    for d in range(3):
        assert_same_bits(own[d], row(alone, d))


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


def test_the_nearest_prototype_is_a_head():
    method = FedProto(SGD, SCHEDULE, net=initial(conv()))
    members = cohort(conv(), SPLITS)
    p = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(3)).double()
    known = {"p": p, "n": torch.tensor([2.0, 0.0, 1.0]).double()}
    served = method.personal(members, repeat(known, 3))
    x = torch.stack([s.test.inputs for s in SPLITS])
    z = members.features(served, x)
    far = ((z.unsqueeze(2) - p) ** 2).sum(3)
    far[..., 1] = torch.inf  # nobody has this class
    logits = z @ served["head.weight"].transpose(1, 2) + served["head.bias"].unsqueeze(1)
    assert torch.equal(logits.argmax(2), far.argmin(2))


def test_features_are_pulled_to_the_prototypes_of_their_class_and_of_no_missing_one():
    batch = Batch(SPLITS[1].train.inputs[None, :6], torch.tensor([[0, 1, 2, 2, 1, 0]]))
    p = torch.randn(1, CLASSES, 5, generator=torch.Generator().manual_seed(3)).double()
    memory = {"prototypes": {"p": p, "n": torch.tensor([[4.0, 0.0, 1.0]])}}
    view = seen(plain(), initial(plain()), batch, memory, {})
    pulled = Prototypes(0.7)(view) - cross_entropy(view)
    wanted = [
        0.7 * ((view.features[0, i] - p[0, c]) ** 2).mean() * (c != 1)
        for i, c in enumerate(batch.labels[0].tolist())
    ]
    torch.testing.assert_close(pulled[0], sum(wanted) / 6)
