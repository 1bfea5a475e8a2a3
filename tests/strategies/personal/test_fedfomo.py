"""FedFomo by hand, in its limits, and on real digits."""

from dataclasses import replace
from statistics import mean

import pytest
import torch
from digits import learn, local
from toys import (
    Quadratic,
    Toys,
    assert_same_bits,
    dense,
    federate,
    initial,
    quadratic_split,
    split,
    training,
)

from fedadapt.client.candidates import join_models
from fedadapt.config import RunConfig
from fedadapt.datasets.benchmark import Split
from fedadapt.errors import InputError
from fedadapt.simulations.unused import refuse_unused
from fedadapt.strategies.personal.fedfomo import FedFomo, mixed
from fedadapt.strategies.personal_models import PersonalState
from fedadapt.strategies.registry import select
from fedadapt.strategies.shared.local import Local
from fedadapt.weights import repeat

START = {"w": torch.tensor(10.0, dtype=torch.float64)}
CLIENTS = [quadratic_split(1.0, t) for t in (0.0, 4.0)]
SPLITS = [split(count, seed=seed) for seed, count in enumerate((9, 6, 12))]
MOMENTUM = training(0.1, 2, momentum=0.5)
SEEDS = (1, 2)


def fedfomo(model=None, how=None, **arguments):
    return FedFomo(model=model or Quadratic(), training=how or training(0.0), **arguments)


def answered(own, *candidates, targets=(4.0,), clients=None):
    """What clients of ``targets`` answer whose models are ``own`` when they get ``candidates``."""
    strategy = fedfomo(candidates=3)
    clients = clients or [quadratic_split(1.0, t) for t in targets]
    worker = federate(strategy, Toys(clients), Quadratic(), START, 0).worker
    states = [{"model": {"w": torch.tensor(w, dtype=torch.float64)}} for w in own]
    received = [{"w": torch.tensor(w, dtype=torch.float64)} for w in candidates]
    cohort = worker.cohort(range(len(clients)), 2, states)
    update = strategy.train(cohort, join_models(received))
    return update.weights["w"].tolist(), update.report["shares"].tolist()


def test_one_candidate_by_hand():
    # Client 1 is at 5 and would like 0: 7 is worse. Client 2 is at 7 and would like 4: it takes 5.
    found = answered([5.0, 7.0], [7.0, 5.0], targets=(0.0, 4.0))
    assert found == ([5, 5], [[0, 0, 0], [1, 0, 0]])


def test_shares_are_the_gain_in_loss_by_the_way_that_it_takes():
    # Losses (w - 4)^2 / 2 + 1 of 8, 6, 2, 9: gains of 6 and 6 over ways of 2 and 6, and none.
    models, shares = answered([8.0], [6.0], [2.0], [9.0])
    assert shares[0] == pytest.approx([0.75, 0.25, 0])
    assert models[0] == pytest.approx(8 + 0.75 * -2 + 0.25 * -6)


def test_models_that_are_equal_change_nothing():
    found = answered([7.0, 7.0], [7.0, 7.0], [7.0, 7.0], targets=(0.0, 4.0))
    assert found == ([7, 7], [[0, 0, 0], [0, 0, 0]])


def test_models_are_judged_on_adapt_images():
    train, adapt, test = (quadratic_split(1.0, t).train for t in (0.0, 4.0, 0.0))
    assert answered([7.0], [5.0], clients=[Split(train, adapt, test)])[1] == [[1, 0, 0]]
    assert answered([1.0], [0.0], clients=[Split(train, adapt, test)])[1] == [[0, 0, 0]]


def test_models_of_equal_parameters_are_equal_whatever_their_statistics():
    strategy, own = fedfomo(dense()), initial(dense())
    cohort = federate(strategy, Toys(SPLITS), dense(), own, 0).worker.cohort([0], 1)
    other = own | {"body.2.running_mean": own["body.2.running_mean"] + 1}
    for mine, its in ((own, other), (other, own)):  # one of them is better
        update = strategy.train(
            replace(cohort, states=({"model": mine},)), join_models([repeat(its, 1)])
        )
        assert not update.report["shares"].any()


def test_a_model_without_a_finite_loss_is_not_mixed_in():
    assert answered([8.0], [1e300], [-1e300], [4.0]) == ([4], [[0, 0, 1]])


def test_two_clients_by_hand_over_two_rounds():
    strategy = fedfomo(how=training(0.5))
    trial = federate(strategy, Toys(CLIENTS), Quadratic(), START, 1)
    assert trial.method.models([0, 1])["personal"]["w"].tolist() == [5, 7]
    trial = federate(strategy, Toys(CLIENTS), Quadratic(), START, 2)
    # Client 2 moved to 5, and both made half the way to their own minimum.
    assert trial.method.models([0, 1])["personal"]["w"].tolist() == [2.5, 4.5]
    state = trial.method._state
    assert [strategy.given(state, d) for d in (0, 1)] == [{1: 0.0}, {0: 1.0}]


def test_a_mixture_takes_each_client_s_own_shares():
    own = {"a": torch.tensor([[1.0, 2], [3, 4]]), "count": torch.tensor([1, 2])}
    models = [
        {"a": torch.full((2, 2), 10.0), "count": torch.tensor([7, 7])},
        {"a": torch.full((2, 2), 20.0), "count": torch.tensor([7, 7])},
    ]
    found = mixed(own, models, torch.tensor([[0.5, 0.25, 0], [0, 1, 0]]))
    assert found["a"].tolist() == [[10.25, 10.5], [20, 20]]
    assert found["count"].tolist() == [1, 2]


def test_without_candidates_it_is_local_to_the_bit():
    ours, alone = (
        federate(strategy, Toys(SPLITS), dense(), initial(dense()), 3)
        for strategy in (
            fedfomo(dense(), MOMENTUM, candidates=0),
            Local(model=dense(), training=MOMENTUM),
        )
    )
    for d in range(3):
        mine, other = (trial.client_pool.states()[d] for trial in (ours, alone))
        assert_same_bits(mine["model"], other["personal"])


def state_of(given, count=8):
    """A state in which client 0 has given these shares."""
    notes = {
        "others": torch.tensor(sorted(given)),
        "shares": torch.tensor([given[d] for d in sorted(given)]).double(),
    }
    model = {"w": torch.zeros(()).double()}
    return PersonalState(
        model, {d: {"model": model, "notes": {} if d else notes} for d in range(count)}
    )


def test_the_best_candidates_are_those_that_were_given_most():
    strategy = fedfomo(candidates=3, epsilon=0.0)
    state = state_of({2: 0.4, 5: 1.7, 6: 0.1})
    assert strategy.chosen(state, 0, 9) == [5, 2, 6]
    last = {strategy.chosen(state_of({5: 1.0}), 0, r)[-1] for r in range(40)}
    assert last == {1, 2, 3, 4, 6, 7}  # ties at random, and never oneself


def test_random_candidates_get_fewer_and_the_draw_repeats_itself():
    state = state_of({1: 3.0, 2: 2.0})
    strategy = fedfomo(candidates=2, epsilon=0.6, epsilon_decay=0.1)
    drawn = [[strategy.chosen(state, 0, r) for _ in range(2)] for r in range(1, 30)]
    assert all(one == again and len(set(one)) == 2 for one, again in drawn)
    assert any(one != [1, 2] for one, _ in drawn[:6])
    assert all(one == [1, 2] for one, _ in drawn[6:])
    always = [
        fedfomo(candidates=2, epsilon=1.0, epsilon_decay=0).chosen(state, 0, r) for r in range(9)
    ]
    assert len({tuple(one) for one in always}) > 4


def test_all_clients_get_equally_many_and_those_that_are_new_too():
    strategy = fedfomo(candidates=5)
    state = state_of({}, count=3)
    assert [len(strategy.chosen(state, d, 2)) for d in (0, 1, 2, 9)] == [2, 2, 2, 2]
    assert strategy.chosen(strategy.begin(START, [0, 1]), 0, 1) == []


def test_shares_are_put_down_to_those_whose_models_were_sent():
    strategy = fedfomo(candidates=2, epsilon=0.5)
    state = state_of({3: 0.5})
    sent = strategy.chosen(state, 0, 4)
    notes = strategy.noted(state, 4, 0, {"shares": torch.tensor([0.25, 0.75]).double()})
    found = dict(zip(notes["others"].tolist(), notes["shares"].tolist(), strict=True))
    wanted = {3: 0.5}
    for other, share in zip(sent, (0.25, 0.75), strict=True):
        wanted[other] = wanted.get(other, 0) + share
    assert found == wanted


def test_down_go_as_many_models_as_candidates_and_up_goes_one():
    benchmark = Toys([quadratic_split(1.0, t) for t in range(5)])
    trial = federate(fedfomo(candidates=3), benchmark, Quadratic(), START, 2)
    down = {entry.round: entry.bytes_down for entry in trial.communication}
    assert down == {1: 8, 2: 3 * 8}
    # A model, three shares, the loss and the number of images.
    assert {entry.bytes_up for entry in trial.communication} == {8 + 3 * 8 + 2 * 8}


def test_a_limit_of_updates_is_refused():
    with pytest.raises(InputError, match="max-update-norm: fedfomo does not use it"):
        refuse_unused(config := RunConfig(strategy="fedfomo"), {"max-update-norm"}, select(config))


@pytest.mark.slow
def test_on_real_digits_clients_mix_those_of_their_own_group_and_gain_by_it():
    found = [learn("fedfomo", "two-groups", seed) for seed in SEEDS]
    for learnt in found:
        strategy, state = learnt.trial.worker.strategy, learnt.trial.method._state
        kinds, same, total = learnt.benchmark.kinds, 0.0, 0.0
        for d in state.clients:
            for other, share in strategy.given(state, d).items():
                total += share
                same += share * (kinds[other] == kinds[d])
        assert same / total >= 0.98
        assert total > 0.5 * len(state.clients) * 19
    alone = mean(local("two-groups", seed).personal for seed in SEEDS)
    assert mean(one.personal for one in found) >= alone + 0.012
