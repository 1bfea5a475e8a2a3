"""ATP: rates of all tensors, learnt by the training clients together."""

import json
import logging
from itertools import pairwise

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from toys import CLASSES, assert_close, assert_same_bits, cohort, conv, initials, plain, split

from fedadapt.client.adaptations.adabn import AdaBN
from fedadapt.client.adaptations.atp import Atp, moved, moving, no_rates
from fedadapt.datasets.benchmark import Examples
from fedadapt.models.network import Network
from fedadapt.selectors import norm_statistics
from fedadapt.simulations.results.parquet import read_communication, read_evaluations
from fedadapt.weights import row

SPLITS = [
    split(count, adapt=size, test=7, seed=count) for count, size in ((5, 9), (12, 7), (10, 9))
]


def one_norm():
    """A convolution, batch norm and a head: no layer sees what another one normalised."""
    body = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
    return Network(body, 48, CLASSES)


def rates_of(model, weights, members, value):
    """Rates of 0, but of ``value`` for the running statistics."""
    statistics = norm_statistics(model)
    rates = no_rates(members, weights)
    return {n: t + value * (n in statistics) for n, t in rates.items()}


def written_out(model, weights, own, rates):
    """Written anew for one client: the weights moved by ``rates``, and what they moved along."""
    x = own.adapt.inputs
    start = {n: t.clone() for n, t in weights.items()}
    for n, _ in model.named_parameters():
        start[n].requires_grad_()
    entering = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, path=path: entering.update({path: args[0]}))
        for path, layer in model.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    log_p = functional_call(model.eval(), start, (x,)).log_softmax(1)
    for hook in hooks:
        hook.remove()
    names = [n for n, _ in model.named_parameters()]
    unsure = -(log_p.exp() * log_p).sum(1).mean()
    gradients = torch.autograd.grad(unsure, [start[n] for n in names], allow_unused=True)
    direction = {n: g for n, g in zip(names, gradients, strict=True) if g is not None}
    for path, z in entering.items():
        mean, variance = z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False)
        direction[f"{path}.running_mean"] = weights[f"{path}.running_mean"] - mean.detach()
        direction[f"{path}.running_var"] = weights[f"{path}.running_var"] - variance.detach()
    return weights | {n: weights[n] - rates[n] * g for n, g in direction.items()}, direction


def loss(model, weights, own):
    logits = functional_call(model.eval(), weights, (own.adapt.inputs,))
    return F.cross_entropy(logits, own.adapt.labels)


@pytest.mark.parametrize("model", [conv, plain])
def test_rates_of_0_are_none(model):
    weights, members = initials(model(), 3), cohort(model(), SPLITS)
    assert_same_bits(Atp().adapt(members, weights, no_rates(members, weights)), weights)
    assert Atp().adapt(members, weights) is weights  # nobody answered


def test_a_rate_of_1_on_statistics_is_adabn_in_a_network_of_one_norm_layer():
    weights, members = initials(one_norm(), 3), cohort(one_norm(), SPLITS)
    rates = rates_of(one_norm(), weights, members, 1.0)
    assert_close(Atp().adapt(members, weights, rates), AdaBN().adapt(members, weights))
    # Deeper layers see inputs normalised by the old statistics.
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    found = Atp().adapt(members, weights, rates_of(conv(), weights, members, 1.0))
    adabn = AdaBN().adapt(members, weights)
    torch.testing.assert_close(found["body.1.running_var"], adabn["body.1.running_var"])
    assert not torch.allclose(found["body.4.running_var"], adabn["body.4.running_var"])


@pytest.mark.parametrize("batch_size", [4, 100])
@pytest.mark.parametrize("model", [conv, plain])
def test_it_moves_as_written_out(model, batch_size):
    weights, members = initials(model(), 3), cohort(model(), SPLITS)
    rates = {n: 0.1 + t for n, t in no_rates(members, weights).items()}
    found = Atp(batch_size=batch_size).adapt(members, weights, rates)
    for d, own in enumerate(SPLITS):
        wanted, _ = written_out(model(), row(weights, d), own, row(rates, d))
        torch.testing.assert_close(row(found, d), wanted)


@pytest.mark.parametrize("model", [conv, plain])
def test_rates_step_down_the_gradient_of_the_labels_loss(model):
    """Of each tensor, statistics too, against a difference quotient of the loss by its rate."""
    weights, members = initials(model(), 3), cohort(model(), SPLITS)
    rates = {n: 0.05 + t for n, t in no_rates(members, weights).items()}
    found = Atp(lr=0.5, batch_size=4).learnt(members, weights, rates)
    assert found.keys() == moving(model())
    for d, own in enumerate(SPLITS[:2]):
        for name in sorted(found):
            losses = []
            for change in (-1e-6, 1e-6):
                changed = row(rates, d) | {name: rates[name][d] + change}
                adapted, _ = written_out(model(), row(weights, d), own, changed)
                losses.append(loss(model(), adapted, own).item())
            slope = (losses[1] - losses[0]) / 2e-6
            numbers = weights[name][d].numel()
            wanted = 0.05 - 0.5 * slope / numbers**0.5
            assert found[name][d].item() == pytest.approx(wanted, abs=1e-7), name


def test_the_part_is_the_one_asked_for():
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    rates = {n: 0.1 + t for n, t in no_rates(members, weights).items()}
    swapped = cohort(conv(), [own._replace(train=own.adapt, adapt=own.train) for own in SPLITS])
    found = Atp(part="train").adapt(members, weights, rates)
    assert_same_bits(found, Atp().adapt(swapped, weights, rates))
    assert not torch.equal(found["head.bias"], Atp().adapt(members, weights, rates)["head.bias"])
    learnt = Atp(part="train").learnt(members, weights, rates)
    assert_same_bits(learnt, Atp().learnt(swapped, weights, rates))


def test_a_variance_is_not_moved_below_0():
    weights = initials(conv(), 3)
    direction = {"body.1.running_var": 2 * weights["body.1.running_var"]}
    rates = {"body.1.running_var": torch.ones(3, dtype=torch.float64)}
    assert not moved(weights, direction, rates)["body.1.running_var"].any()


def alone_with(own, rows):
    """The same client with these of its adapt images."""
    return own._replace(adapt=Examples(own.adapt.inputs[rows], own.adapt.labels[rows]))


@pytest.mark.parametrize("form", ["batch", "online"])
def test_with_one_batch_of_all_images_every_form_is_the_same(form):
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    rates = {n: 0.1 + t for n, t in no_rates(members, weights).items()}
    whole, by_batch = Atp(), Atp(form=form, batch_size=9)
    assert_close(by_batch.adapt(members, weights, rates), whole.adapt(members, weights, rates))
    assert_close(by_batch.learnt(members, weights, rates), whole.learnt(members, weights, rates))


@pytest.mark.parametrize("form", ["batch", "online"])
def test_rates_make_one_step_a_batch_each_from_the_model_received(form):
    """Batch after batch, written out by the form that takes all images in one step."""
    weights, members = initials(conv(), 3), cohort(conv(), SPLITS)
    rates = {n: 0.05 + t for n, t in no_rates(members, weights).items()}
    method = Atp(form=form, batch_size=4, lr=0.5)
    found = method.learnt(members, weights, rates)
    for d, own in enumerate(SPLITS):
        order = members.generator(d, "atp").permutation(len(own.adapt))
        batches = {9: [order[:4], order[4:]], 7: [order[:4], order[4:]]}[len(order)]
        wanted = row(rates, d)
        for rows in batches:
            client = cohort(conv(), [alone_with(own, torch.from_numpy(rows))])
            given = {n: t.unsqueeze(0) for n, t in wanted.items()}
            stepped = Atp(lr=0.5).learnt(
                client, {n: t[d : d + 1] for n, t in weights.items()}, given
            )
            wanted = row(stepped, 0)
        torch.testing.assert_close(row(found, d), wanted)
    assert not torch.equal(
        found["head.bias"], Atp(lr=0.5).learnt(members, weights, rates)["head.bias"]
    )


def test_online_is_the_mean_over_batches_and_batch_is_the_first():
    """Means of equal batches are that of all; a variance lacks the spread of the batches' means."""
    even = [split(5, adapt=size, seed=size) for size in (8, 4, 12)]
    weights, members = initials(one_norm(), 3), cohort(one_norm(), even)
    rates = {n: 0.1 + t for n, t in no_rates(members, weights).items()}
    whole = Atp().adapt(members, weights, rates)
    online = Atp(form="online", batch_size=4).adapt(members, weights, rates)
    first = Atp(form="batch", batch_size=4).adapt(members, weights, rates)
    parameters = [n for n, _ in one_norm().named_parameters()]
    assert_close(
        *({n: t[n] for n in (*parameters, "body.1.running_mean")} for t in (online, whole))
    )
    for d, own in enumerate(even):
        order = torch.from_numpy(members.generator(d, "atp").permutation(len(own.adapt)))
        each = [
            row(
                Atp().adapt(
                    cohort(one_norm(), [alone_with(own, rows)]),
                    {n: t[d : d + 1] for n, t in weights.items()},
                    {n: t[d : d + 1] for n, t in rates.items()},
                ),
                0,
            )
            for rows in order.split(4)
        ]
        mean = {n: sum(t[n] for t in each) / len(each) for n in rates}
        assert_close({n: online[n][d] for n in rates}, mean)
        assert_close({n: first[n][d] for n in rates}, {n: each[0][n] for n in rates})
    variance = "body.1.running_var"
    assert (online[variance][[0, 2]] < whole[variance][[0, 2]]).all()


def test_rates_that_are_learnt_lower_the_loss_that_they_are_learnt_on():
    weights, members = initials(conv(), 1), cohort(conv(), SPLITS[:1])
    method, query = Atp(lr=0.02), Atp(lr=0.02).query()
    rates = query.answered(members, weights, {})
    before = loss(conv(), row(weights, 0), SPLITS[0])
    for _ in range(20):
        rates = method.learnt(members, weights, rates)
    after = loss(conv(), row(method.adapt(members, weights, rates), 0), SPLITS[0])
    assert after < before


# In a run


CHANGES = {"model": tiny.NORM_MLP, "rounds": 1, "adapt": "none,atp,adabn", "local": False,
           "unseen": 0.34, "shift": "corruptions:5", "save_models": "none"}  # fmt: skip


def test_rounds_follow_one_another_and_rates_are_a_number_for_each_tensor(tmp_path, monkeypatch):
    tiny.without_pictures(monkeypatch)
    asked: list[tuple] = []
    learnt = Atp.learnt

    def spied(self, cohort, weights, rates):
        found = learnt(self, cohort, weights, rates)
        asked.append((rates, found))
        return found

    monkeypatch.setattr(Atp, "learnt", spied)
    changes = CHANGES | {"workers": 1, "adapt_args": "atp.rounds=3 atp.lr=0.5"}
    tiny.run(tmp_path / "run", **changes)
    assert len(asked) == 3  # four clients that train, computed together
    assert not any(t.any() for t in asked[0][0].values())
    for (_, found), (rates, _) in pairwise(asked):
        for name, own in found.items():  # of equally many images: the plain mean
            torch.testing.assert_close(rates[name], own.mean().expand(4))
    rows = [e for e in read_communication(tmp_path / "run") if e.action == "query.atp_rates"]
    assert len(rows) == 12
    assert {e.bytes_down - rows[0].bytes_down for e in rows} == {0, 4 * len(asked[0][0])}
    loss = {r.label: r.loss for r in read_evaluations(tmp_path / "run") if r.client == 0}
    assert loss["base+atp"] != loss["base"]


def test_where_nobody_answers_nothing_moves_and_that_is_said(tmp_path, monkeypatch, caplog):
    tiny.without_pictures(monkeypatch)

    def broken(self, cohort, weights, rates):
        raise ValueError("no")

    monkeypatch.setattr(Atp, "learnt", broken)
    with caplog.at_level(logging.WARNING, "fedadapt"):
        tiny.run(tmp_path / "run", **CHANGES)
    assert "atp does without" in caplog.text
    accuracy = json.loads((tmp_path / "run/summary.json").read_text())["accuracy"]
    assert accuracy["base+atp"]["mean"] == accuracy["base"]["mean"]
