"""FedAMP by hand, in its limits, and on real digits."""

from math import exp
from statistics import mean

import pytest
import torch
from digits import fedavg, learn, local
from toys import (
    Quadratic,
    Toys,
    assert_close,
    assert_same_bits,
    conv,
    dense,
    federate,
    initial,
    quadratic_split,
    split,
    training,
)

from fedadapt.strategies.personal.fedamp import FedAMP, products, squared_distances
from fedadapt.strategies.personal_models import PersonalState
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.strategies.shared.local import Local

SPLITS = [split(count, seed=seed) for seed, count in enumerate((9, 6, 12))]
MOMENTUM = training(0.1, 2, momentum=0.5)
FORMS = ({}, {"s": 0.25}, {"form": "published"}, {"form": "heur"})
SEEDS = (1, 2)


def fedamp(model=None, how=None, **arguments):
    return FedAMP(model=model or Quadratic(), training=how or training(0.5), **arguments)


def state_of(values):
    """The server's state after clients 0, 1, ... answered with these models."""
    kept = {d: {"model": model, "notes": {}} for d, model in enumerate(values)}
    return PersonalState(values[0], kept)


def scalars(*values):
    return [{"w": torch.tensor(v, dtype=torch.float64)} for v in values]


def run(strategy, model=dense, splits=SPLITS, rounds=3, start=None):
    return federate(strategy, Toys(splits), model(), start or initial(model()), rounds)


def personal_of(trial, clients):
    """The models that these clients have themselves, by client."""
    return {d: trial.client_pool.states()[d] for d in clients}


def test_the_published_form_by_hand():
    strategy = fedamp(form="published", sigma=4.0, alpha=2.0)
    xi = strategy.shares(products(state_of(scalars(5.0, 7.0)), {"w"}))
    assert xi[0, 1] == pytest.approx(0.5 * exp(-1))
    mixed = torch.stack([m["w"] for m in strategy.combine(state_of(scalars(5.0, 7.0)), [0, 1], 2)])
    torch.testing.assert_close(mixed, torch.tensor([5.36788, 6.63212]).double(), atol=1e-5, rtol=0)


def test_a_step_goes_from_a_client_s_own_model_and_towards_the_mixture():
    # Minimisers 0 and 4, from 10 with a step of 0.5: 5 and 7. Then towards the mixture as well.
    strategy = fedamp(form="published", sigma=4.0, alpha=2.0, mu=0.5)
    clients = [quadratic_split(1.0, t) for t in (0.0, 4.0)]
    trial = run(strategy, Quadratic, clients, 2, {"w": torch.tensor(10.0, dtype=torch.float64)})
    found = trial.method.models([0, 1])["personal"]["w"]
    torch.testing.assert_close(found, torch.tensor([2.59197, 5.40803]).double(), atol=1e-5, rtol=0)
    # In the first round the mixture is the start, and so is the model: the pull is 0 there.


def test_the_scale_free_form_by_hand():
    # Squared distances 1, 4 and 9, whose median is 4; shares exp(-d^2 / 4 s) / 2.
    state = state_of(scalars(0.0, 1.0, 3.0))
    for s in (1.0, 0.5):
        near, middle, far = (exp(-d / (4 * s)) / 2 for d in (1, 4, 9))
        wanted = [
            [1 - near - far, near, far],
            [near, 1 - near - middle, middle],
            [far, middle, 1 - middle - far],
        ]
        found = fedamp(s=s).shares(products(state, {"w"}))
        torch.testing.assert_close(found, torch.tensor(wanted).double())
    shrunk = state_of([{"w": m["w"] / 1000} for m in scalars(0.0, 1.0, 3.0)])
    torch.testing.assert_close(
        fedamp().shares(products(shrunk, {"w"})), fedamp().shares(products(state, {"w"}))
    )


def test_the_heuristic_form_by_hand():
    models = [{"w": torch.tensor(w, dtype=torch.float64)} for w in ([1, 0], [2, 0], [0, 3])]
    found = fedamp(form="heur", cosine=2.0, own=0.2).shares(products(state_of(models), {"w"}))
    like, unlike = 0.8 * exp(2) / (exp(2) + 1), 0.8 / (exp(2) + 1)
    wanted = [[0.2, like, unlike], [like, 0.2, unlike], [0.4, 0.4, 0.2]]
    torch.testing.assert_close(found, torch.tensor(wanted).double())


@pytest.mark.parametrize("arguments", FORMS, ids=str)
def test_a_mixture_is_a_proper_average_however_far_models_are_apart(arguments):
    draw = torch.Generator().manual_seed(1)
    for scale in (1e-6, 1.0, 1e3):
        models = [
            {"w": scale * torch.randn(5, generator=draw, dtype=torch.float64)} for _ in range(6)
        ]
        xi = fedamp(**arguments).shares(products(state_of(models), {"w"}))
        torch.testing.assert_close(xi.sum(1), torch.ones(6).double())
        assert (xi >= 0).all()


@pytest.mark.parametrize("arguments", FORMS, ids=str)
def test_models_that_are_equal_stay_as_they_are(arguments):
    model = {"w": torch.tensor([0.1, 0.7, -1 / 3], dtype=torch.float64)}
    strategy = fedamp(**arguments)
    for mixed in strategy.combine(state_of([model] * 4), [0, 1, 2, 3], 2):
        assert_close(mixed, model)
    [alone] = strategy.combine(state_of([model]), [0], 2)
    assert_same_bits(alone, model)


def test_distances_are_those_of_parameters_however_they_are_cut(monkeypatch):
    models = [initial(conv(), d) for d in range(5)]
    names = {n for n, _ in conv().named_parameters()}
    flat = torch.stack([torch.cat([m[n].flatten() for n in sorted(names)]) for m in models])
    wanted = torch.cdist(flat, flat) ** 2
    whole = products(state_of(models), names)
    torch.testing.assert_close(squared_distances(whole), wanted)
    monkeypatch.setattr("fedadapt.strategies.personal.fedamp.AT_ONCE", 2 * 8 * flat.shape[1])
    torch.testing.assert_close(products(state_of(models), names), whole)


def test_statistics_of_batch_norm_do_not_count_as_distance():
    one = initial(dense())
    other = {n: t + 5 if "running" in n else t for n, t in one.items()}
    far = {n: t + 1 if t.is_floating_point() else t for n, t in one.items()}
    mixed = next(fedamp(dense(), s=0.01).combine(state_of([one, other, far]), [0], 2))
    # The other's parameters are as near as its own: half of all that is mixed is the other's.
    torch.testing.assert_close(mixed["body.2.running_mean"], one["body.2.running_mean"] + 2.5)


def test_without_a_pull_it_is_local_to_the_bit():
    ours = run(fedamp(dense(), MOMENTUM, mu=0.0))
    alone = run(Local(model=dense(), training=MOMENTUM))
    for d in range(3):
        mine, other = (trial.client_pool.states()[d] for trial in (ours, alone))
        assert_same_bits(mine["model"], other["personal"])
        served = {n: t[d] for n, t in ours.method.models([0, 1, 2])["personal"].items()}
        assert_same_bits(served, other["personal"])


def test_the_base_is_the_mean_of_what_was_trained():
    ours, average = (
        run(fedamp(dense(), MOMENTUM, mu=0.0), rounds=1),
        run(FedAvg(model=dense(), training=MOMENTUM), rounds=1),
    )
    assert_same_bits(ours.state, average.state)


def test_a_client_that_is_new_is_sent_the_mean_and_the_others_their_mixtures():
    strategy, state = fedamp(), state_of(scalars(5.0, 7.0))
    sent = strategy.send(state, "train", 2, [1, 4]).weights["w"]
    assert sent[1] == 5.0  # the base of this state
    assert sent[0] == list(strategy.combine(state, [0, 1], 2))[1]["w"]


def test_real_digits_are_learnt_better_than_alone():
    found = mean(learn("fedamp", "two-groups", seed).personal for seed in SEEDS)
    alone = mean(local("two-groups", seed).personal for seed in SEEDS)
    average = mean(fedavg("two-groups", seed).base for seed in SEEDS)
    assert found > alone + 0.01  # seen: 0.963 beside 0.944 and 0.918
    assert found > average + 0.02


def test_the_cloud_is_the_mixture_of_what_clients_trained_by_hand():
    state = state_of(scalars(5.0, 7.0))
    strategy = fedamp(form="published", sigma=4.0, alpha=2.0, cloud=True)
    models = strategy.models(state, [1, 0, 9])
    wanted = torch.tensor([6.63212, 5.36788, 5.0]).double()  # 9 never trained: the base, 5
    torch.testing.assert_close(models["cloud"]["w"], wanted, atol=1e-5, rtol=0)
    assert models["personal"]["w"].tolist() == [7.0, 5.0, 5.0]
    assert set(fedamp().models(state, [0])) == {"base", "personal"}


def test_clouds_of_equal_clients_are_fedavg():
    alike, start = [quadratic_split(1.0, 4.0)] * 3, {"w": torch.tensor(10.0, dtype=torch.float64)}
    trial = run(fedamp(cloud=True), Quadratic, alike, 3, start)
    average = run(FedAvg(model=Quadratic(), training=training(0.5)), Quadratic, alike, 3, start)
    wanted = average.method.models([0, 1, 2])["base"]["w"]
    # The pull to the mixture, which is one's own model, is 0.
    torch.testing.assert_close(trial.method.models([0, 1, 2])["cloud"]["w"], wanted)
