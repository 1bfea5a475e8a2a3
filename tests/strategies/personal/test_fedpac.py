"""FedPAC: its quadratic programme in closed form, its limits, and real digits."""

from statistics import mean

import pytest
import torch
from digits import fedavg, learn
from torch import nn
from toys import Toys, assert_same_bits, dense, federate, initial, split, training

from fedadapt.client.cohort import Schedule
from fedadapt.errors import InputError
from fedadapt.strategies.personal import fedpac
from fedadapt.strategies.personal.fedpac import FedPAC, head_shares, least_on_simplex, on_simplex
from fedadapt.strategies.shared.fedproto import SHARES, SUMS
from fedadapt.strategies.shared.fedrep import FedRep
from fedadapt.weights import repeat

SPLITS = [split(count, seed=seed) for seed, count in enumerate((9, 6, 12))]
LOCAL = training(0.1, 2, momentum=0.5)
SEEDS = (1, 2)
HEAD = ("head.bias", "head.weight")


def double(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def run(strategy, rounds=3):
    return federate(strategy, Toys(SPLITS), dense(), initial(dense()), rounds)


def ours(**arguments):
    return FedPAC(model=dense(), training=LOCAL, **arguments)


@pytest.mark.parametrize(
    ("v", "apart", "own"),
    [((1.0, 1.0), 2.0, 0.75), ((1.0, 3.0), 0.0, 0.75), ((1.0, 1.0), 1e6, 1.0)],
)
def test_two_clients_share_heads_as_the_closed_form_says(v, apart, own):
    # The first one's share of its own head is (v_2 + d^2) / (v_1 + v_2 + d^2).
    features = double([0.3, 0.1], [0.3, 0.1 + apart**0.5])
    found = head_shares(features, double(*map(float, v)))
    assert found[0].tolist() == pytest.approx([own, 1 - own], abs=2e-6)
    other = (v[0] + apart) / (sum(v) + apart)
    assert found[1].tolist() == pytest.approx([1 - other, other], abs=2e-6)


def test_clients_that_are_alike_share_heads_by_the_inverse_of_their_variances():
    found = head_shares(double([1.0, 2.0]).expand(3, 2), double(1.0, 2.0, 4.0))
    torch.testing.assert_close(found, double([4 / 7, 2 / 7, 1 / 7]).expand(3, 3))


def test_shares_are_the_same_however_many_clients_are_solved_at_once(monkeypatch):
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(6, 4, generator=draw, dtype=torch.float64)
    variances = torch.rand(6, generator=draw, dtype=torch.float64) + 0.5
    whole = head_shares(features, variances)
    monkeypatch.setattr(fedpac, "NUMBERS_AT_ONCE", 2 * 36)
    torch.testing.assert_close(head_shares(features, variances), whole)
    # Nobody gains by moving a little of its share from one head to another.
    for i, a in enumerate(whole):
        apart = features[i] - features
        gradient = 2 * (torch.diag(variances) + apart @ apart.T) @ a
        assert gradient[a > 0].max() - gradient.min() < 1e-5
    torch.testing.assert_close(whole.sum(1), torch.ones(6).double())


def test_a_share_below_a_thousandth_is_none():
    found = head_shares(double([0.0], [0.0], [0.0]), double(1.0, 1.0, 1e4))
    torch.testing.assert_close(found, double([0.5, 0.5, 0]).expand(3, 3))


def test_the_nearest_point_of_the_simplex():
    points = double([0.2, 0.3, 0.5], [2, 0, 0], [0.5, 0.5, 0.6], [-1, -1, -3])
    wanted = double([0.2, 0.3, 0.5], [1, 0, 0], [3 / 10, 3 / 10, 4 / 10], [0.5, 0.5, 0])
    torch.testing.assert_close(on_simplex(points), wanted)


def test_a_single_client_and_a_flat_programme_have_a_solution():
    assert head_shares(double([1.0, 2.0]), double(3.0)).tolist() == [[1]]
    assert least_on_simplex(torch.zeros(1, 4, 4).double()).tolist() == [[0.25] * 4]


def test_with_heads_of_their_own_and_no_pull_it_is_fedrep_to_the_bit(monkeypatch):
    monkeypatch.setattr(fedpac, "head_shares", lambda features, v: torch.eye(len(v)))
    mine = run(ours(lam=0.0, head_lr=0.1))
    other = run(FedRep(model=dense(), training=LOCAL, head_epochs=1))
    served = mine.method.models([0, 1, 2])
    base = other.method.models([0, 1, 2])["base"]
    for n in base.keys() - set(HEAD):
        assert torch.equal(served["base"][n], base[n]), n
    for d in range(3):
        kept = other.client_pool.states()[d]["stays"]
        assert_same_bits({n: served["personal"][n][d] for n in kept}, kept)


def test_the_personal_model_is_the_mean_body_with_the_client_s_mixture_of_heads(monkeypatch):
    shares = double([0.5, 0.5, 0], [0, 0.25, 0.75], [0, 0, 1])
    monkeypatch.setattr(fedpac, "head_shares", lambda features, v: torch.eye(len(v)))
    heads = run(ours(), 1).method.models([0, 1, 2])["personal"]
    monkeypatch.setattr(fedpac, "head_shares", lambda features, v: shares)
    models = run(ours(), 1).method.models([0, 1, 2, 3])
    for n in HEAD:
        wanted = torch.einsum("ij,j...->i...", shares, heads[n])
        torch.testing.assert_close(models["personal"][n][:3], wanted)
        assert models["personal"][n][3].equal(models["base"][n][3])  # the mean head: it is new
    for n in models["base"].keys() - set(HEAD):
        assert models["personal"][n].equal(models["base"][n])


def test_what_a_client_measures_before_it_trains():
    strategy, start = ours(), initial(dense())
    cohort = run(strategy, 0).worker.cohort([0, 1, 2], 1)
    received = repeat(start | strategy.extras(start), 3)
    report = strategy.train(cohort, received).report
    for d, own in enumerate(SPLITS):
        only = cohort.only(d)
        z = only.features(repeat(start, 1), own.train.inputs.unsqueeze(0))[0]
        n, labels = len(z), own.train.labels
        prior = [(labels == c).sum() / n for c in range(3)]
        means = [z[labels == c].mean(0) if p else torch.zeros(5) for c, p in enumerate(prior)]
        h = torch.stack([p * m for p, m in zip(prior, means, strict=True)]).double()
        torch.testing.assert_close(report["H"][d], h)
        v = ((z**2).sum(1).mean() - (h**2).sum()) / n
        torch.testing.assert_close(report["v"][d], v)
    assert strategy.validation_errors("train", strategy.train(cohort, received)) == {}


def test_class_means_are_averaged_by_images_under_the_trained_model():
    trial = run(ours(), 1)
    state, cohort = trial.method._state, trial.worker.cohort([0, 1, 2], 1)
    start = initial(dense())
    trained = trial.worker.strategy.train(cohort, repeat(start | ours().extras(start), 3)).weights
    network = {n: t for n, t in trained.items() if n not in (SUMS, SHARES)}
    total, count = torch.zeros(3, 5).double(), torch.zeros(3).double()
    for d, own in enumerate(SPLITS):
        one = {n: t[d : d + 1] for n, t in network.items()}
        z = cohort.only(d).features(one, own.train.inputs.unsqueeze(0))[0]
        total.index_add_(0, own.train.labels, z)
        count += torch.bincount(own.train.labels, minlength=3)
    means = state.base[SUMS] / state.base[SHARES].unsqueeze(1)
    torch.testing.assert_close(means, total / count.unsqueeze(1))


def test_features_are_pulled_to_the_class_means_from_the_second_round_on():
    pulled, free = (run(ours(lam=lam), 1).state for lam in (5.0, 0.0))
    assert_same_bits(pulled, free)  # nobody has sent class means yet
    spread = []
    for lam in (0.0, 5.0):
        trial = run(ours(lam=lam), 4)
        cohort = trial.worker.cohort([0, 1, 2], 5)
        models = trial.method.models([0, 1, 2])["personal"]
        prototypes = trial.state[SUMS] / trial.state[SHARES].unsqueeze(1)
        gaps = []
        for groups in cohort.steps(Schedule(100)):
            for members, batch in groups:
                z = cohort.features({n: t[members] for n, t in models.items()}, batch.inputs)
                gaps += [(z[d] - prototypes[y]).square().mean() for d, y in enumerate(batch.labels)]
        spread.append(torch.stack(gaps).mean())
    assert spread[1] < 0.8 * spread[0]


def test_the_head_trains_first_and_alone_at_its_own_rate():
    strategy, start = ours(head_lr=0.0 + 1e-12), initial(dense())
    cohort = run(strategy, 0).worker.cohort([0], 1)
    received = repeat(start | strategy.extras(start), 1)
    found = strategy.train(cohort, received).weights
    for n in HEAD:
        torch.testing.assert_close(found[n][0], start[n], atol=1e-9, rtol=0)
    assert not torch.allclose(found["body.1.weight"][0], start["body.1.weight"])


def test_a_network_without_a_linear_head_is_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))

    with pytest.raises(InputError, match=r"head: it must be one nn\.Linear"):
        FedPAC(model=Two(), training=LOCAL)


@pytest.mark.slow
def test_real_digits_are_learnt_better_than_by_one_model():
    found = mean(learn("fedpac", "two-groups", seed).personal for seed in SEEDS)
    assert found >= mean(fedavg("two-groups", seed).base for seed in SEEDS) + 0.03
