"""FedProto by hand, in its limits, and on real digits."""

import digits
import numpy as np
import pytest
import torch
from served import own_models
from torch import nn
from toys import (
    CLASSES,
    Toys,
    assert_same_bits,
    conv,
    examples,
    federate,
    initial,
    plain,
    sent,
    split,
    training,
    view_of,
)

from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.errors import InputError
from fedadapt.messages import Answers, Update
from fedadapt.objectives import Batch, cross_entropy
from fedadapt.strategies.shared.fedproto import SHARES, SUMS, FedProto, Pulled
from fedadapt.strategies.shared.local import Local
from fedadapt.weights import repeat, row

SPLITS = [split(count, seed=d) for d, count in enumerate((5, 7, 6))]
EVERYONE = Toys(SPLITS)
SEEDS = (1, 2, 3)
LOCAL = training(0.1, 2, momentum=0.5)


def run(strategy, rounds=2, network=conv, benchmark=EVERYONE, **how):
    return federate(strategy, benchmark, network(), initial(network()), rounds, **how)


def means_of(trial):
    return trial.state[SUMS] / trial.state[SHARES].unsqueeze(1)


def test_prototypes_are_the_means_over_the_images_of_all_clients():
    """Of the features of each client's own network, as it is after its training."""
    strategy = FedProto(model=conv(), training=LOCAL)
    trial = run(strategy, rounds=1)
    total, count = torch.zeros(CLASSES, 16).double(), torch.zeros(CLASSES).double()
    for d, own in enumerate(SPLITS):
        net = trial.client_pool.states()[d]["stays"]
        members = trial.worker.cohort([d], 1)
        z = members.features({n: t[None] for n, t in net.items()}, own.train.inputs[None])[0]
        total.index_add_(0, own.train.labels, z)
        count += torch.bincount(own.train.labels, minlength=CLASSES)
    torch.testing.assert_close(means_of(trial), total / count.unsqueeze(1))
    torch.testing.assert_close(trial.state[SHARES], count / count.sum())


def test_the_mean_is_weighted_by_how_many_images_of_the_class_there_are():
    """Means 1 of three images and 5 of one: 2, and not 3, whatever else the clients have."""
    strategy = FedProto(model=plain(), training=LOCAL)
    state = strategy.begin(initial(plain()), [0, 1])

    def answer(client, n, images, mean):
        tables = {n: torch.zeros_like(t).unsqueeze(0) for n, t in strategy.extras(state).items()}
        tables[SUMS][0, 1], tables[SHARES][0, 1] = mean * n / images, n / images
        return Answers((client,), Update(tables, torch.tensor([images]).double()))

    answers = [answer(0, 3, 12.0, 1.0), answer(1, 1, 5.0, 5.0)]
    merged = strategy.merge(state, "train", 1, iter(answers))
    torch.testing.assert_close(merged[SUMS][1] / merged[SHARES][1], torch.full((5,), 2.0).double())


def test_a_pull_to_the_prototype_of_the_own_class_and_none_where_there_is_none():
    random = torch.Generator().manual_seed(3)
    z, p = (torch.randn(1, n, 5, generator=random).double() for n in (6, CLASSES))
    logits = torch.randn(1, 6, CLASSES, generator=random).double()
    labels = torch.tensor([[0, 1, 2, 2, 1, 0]])
    share = torch.tensor([[0.8, 0.0, 0.2]]).double()
    batch, memory = Batch(logits, labels), {"prototypes": {"p": p, "share": share}}
    view = view_of(logits, batch=batch, memory=memory, features=z)
    wanted = sum(
        0.7 * ((z[0, i] - p[0, c]) ** 2).mean() * (c != 1) for i, c in enumerate(labels[0].tolist())
    )
    torch.testing.assert_close((Pulled(0.7)(view) - cross_entropy(view))[0], wanted / 6)


@pytest.mark.usefixtures("by_autograd")
@pytest.mark.parametrize("how", [{}, {"execution": "stacked-kernels", "cohort_size": 3}])
def test_without_a_pull_it_is_local_training_to_the_bit(how):
    found = run(FedProto(model=conv(), training=LOCAL, lam=0.0, predict="classifier"), **how)
    wanted = run(Local(model=conv(), training=LOCAL), **how)
    assert_same_bits(own_models(found, EVERYONE), own_models(wanted, EVERYONE))
    pulled = run(FedProto(model=conv(), training=LOCAL, predict="classifier"), **how)
    assert not torch.allclose(
        own_models(pulled, EVERYONE)["body.0.weight"], own_models(wanted, EVERYONE)["body.0.weight"]
    )


def test_in_the_first_round_there_is_nothing_to_be_pulled_to():
    trial = run(FedProto(model=conv(), training=LOCAL, predict="classifier"), rounds=1)
    wanted = run(Local(model=conv(), training=LOCAL), rounds=1)
    assert_same_bits(own_models(trial, EVERYONE), own_models(wanted, EVERYONE))


def test_a_client_sends_a_number_a_feature_and_class_and_one_a_class():
    trial = run(FedProto(model=conv(), training=LOCAL))
    features = 16
    numbers = 2  # its loss and its number of images
    assert {entry.bytes_up for entry in trial.communication} == {
        8 * (CLASSES * (features + 1) + numbers)
    }


def test_the_nearest_prototype_is_the_head_and_a_class_nobody_has_is_never_predicted():
    labels = torch.arange(8) % 2 * 2  # of three classes the second is missing
    some = Split(*(Examples(examples(8, seed=i).inputs, labels) for i in range(3)))
    benchmark = Toys([some, some])
    trial = run(FedProto(model=conv(), training=LOCAL), rounds=3, benchmark=benchmark)
    served = own_models(trial, benchmark)
    members = trial.worker.cohort([0, 1], 9)
    x = torch.stack([examples(40, seed=5).inputs] * 2)
    z = members.features(served, x)
    far = ((z.unsqueeze(2) - means_of(trial)) ** 2).sum(3)
    far[..., 1] = torch.inf
    with torch.no_grad():
        logits = z @ served["head.weight"].transpose(1, 2) + served["head.bias"].unsqueeze(1)
    assert torch.equal(logits.argmax(2), far.argmin(2))
    assert (logits[..., 1] < -1e6).all()


def test_a_client_that_never_trained_has_the_initial_network_below_the_prototypes():
    some = Toys(SPLITS, unseen=[2])
    trial = run(FedProto(model=conv(), training=LOCAL), benchmark=some)
    network = {n: trial.state[n] for n in conv().state_dict()}
    assert_same_bits(network, initial(conv()))
    head = {"head.weight", "head.bias"}
    found = own_models(trial, EVERYONE)
    below = {n: t for n, t in network.items() if n not in head}
    assert_same_bits({n: found[n][2] for n in below}, below)
    assert all(torch.equal(found[n][2], found[n][0]) for n in head)


def test_before_there_is_a_prototype_a_client_has_its_own_classifier():
    trial = run(FedProto(model=conv(), training=LOCAL), rounds=0)
    assert_same_bits(own_models(trial, EVERYONE), repeat(initial(conv()), 3))


def test_no_exchange_measures_batch_norm_that_nobody_shares():
    strategy = FedProto(model=conv(), training=LOCAL, batch_norm="reestimate")
    state = strategy.begin(initial(conv()), [0, 1, 2])
    assert strategy.actions(state, 1) == ("train",)
    assert strategy.expected("train", row(sent(state, [0]).weights, 0)).keys() == {SUMS, SHARES}


def test_a_head_without_a_bias_is_refused():
    model = plain()
    model.head = nn.Linear(5, CLASSES, bias=False)
    with pytest.raises(InputError, match="fedproto needs a head with a bias"):
        FedProto(model=model)


def mean(values):
    return float(np.mean(list(values)))


@pytest.mark.slow
def test_on_shifted_labels_a_strong_pull_is_better_than_training_alone():
    found = [digits.learn("fedproto", "dirichlet", seed, {"lam": 10.0}).personal for seed in SEEDS]
    local = [digits.local("dirichlet", seed).personal for seed in SEEDS]
    assert mean(found) >= mean(local) + 0.01  # Seen: .903 .928 .956 and .872 .913 .944.
