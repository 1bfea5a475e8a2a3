"""FedAvg and FedProx where the answer is known, and what becomes of batch norm."""

import pytest
import torch
from toys import (
    Quadratic,
    Toys,
    assert_close,
    assert_same_bits,
    cohort,
    conv,
    copied,
    federate,
    initial,
    plain,
    quadratic_split,
    sent,
    split,
    training,
)

from fedadapt.client.evaluation import evaluate
from fedadapt.client.fit import fit
from fedadapt.flower.stock.client import StockClient
from fedadapt.messages import Answers
from fedadapt.selectors import norms
from fedadapt.strategies.shared.fedprox import FedProx
from fedadapt.strategies.shared_model import STATISTICS
from fedadapt.weights import repeat, row

# Client k holds n_k images and minimises h_k/2 (w - t_k)^2.
H, T, N = (torch.tensor(v, dtype=torch.float64) for v in ([1, 5, 2], [0, 1, -2], [4, 1, 3]))
P = N / N.sum()
PROBLEM = [quadratic_split(h, t, int(n)) for h, t, n in zip(H, T, N, strict=True)]
OPTIMUM = (P * H * T).sum() / (P * H).sum()
START = {"w": torch.tensor(3.0, dtype=torch.float64)}
SPLITS = [split(count, seed=count) for count in (5, 12, 10)]


def where(lr, epochs, mu=0.0, rounds=3):
    """The shared model after some rounds."""
    strategy = FedProx(training=training(lr, epochs), model=Quadratic(), mu=mu)
    return federate(strategy, Toys(PROBLEM), Quadratic(), START, rounds).state["w"]


def known(lr, epochs, mu=0.0, rounds=3):
    """The same in closed form, and the point it goes to.

    E steps from w take client k to w - (1 - (1 - lr (h + mu))^E) h / (h + mu) (w - t).
    """
    pull = P * (1 - (1 - lr * (H + mu)) ** epochs) * H / (H + mu)
    end = (pull * T).sum() / pull.sum()
    return end + (1 - pull.sum()) ** rounds * (START["w"] - end), end


def averaged(batch_norm="shared", mu=0.0, **settings):
    return FedProx(
        training=training(0.1, 2, **settings), model=conv(), mu=mu, batch_norm=batch_norm
    )


def test_one_step_a_round_goes_to_the_joint_optimum():
    found, (wanted, end) = where(lr=0.1, epochs=1), known(lr=0.1, epochs=1)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(end, OPTIMUM)
    assert not torch.isclose(OPTIMUM, (H * T).sum() / H.sum())  # what equal weights would find
    torch.testing.assert_close(where(lr=0.25, epochs=1, rounds=40), OPTIMUM)


def test_many_steps_a_round_drift_to_a_known_point():
    wanted, end = known(lr=0.02, epochs=10)
    torch.testing.assert_close(where(lr=0.02, epochs=10), wanted)
    assert not torch.isclose(end, OPTIMUM, rtol=1e-2)


@pytest.mark.parametrize("mu", [0.5, 5.0])
def test_fedprox_drifts_less_and_to_a_known_point(mu):
    wanted, end = known(0.02, 10, mu)
    torch.testing.assert_close(where(0.02, 10, mu), wanted)
    _, without = known(0.02, 10)
    assert (end - OPTIMUM).abs() < (without - OPTIMUM).abs()


def test_stock_flower_says_mu_in_its_message():
    members = cohort(plain(), SPLITS)
    ours = FedProx(training=training(), model=plain(), mu=0.7)
    theirs = StockClient(training=training(), model=plain())
    message = sent(initial(plain()), members.clients)
    told = sent(initial(plain()), members.clients, **{"proximal-mu": 0.7})
    wanted = ours.answer("train", members, message).weights
    assert_same_bits(theirs.answer("train", members, told).weights, wanted)
    plainly = theirs.answer("train", members, message).weights
    assert not torch.isclose(plainly["head.bias"], wanted["head.bias"]).all()


@pytest.mark.parametrize(
    "engine", [{"execution": "stacked-kernels", "cohort_size": 3}, {"cohort_size": 2}]
)
def test_a_round_is_the_weighted_mean_of_what_clients_trained(engine):
    start, strategy = initial(conv()), averaged()
    members = cohort(conv(), SPLITS, clients=(0, 1, 2), seed=1, round=1)
    trained = fit(
        members, repeat(start, 3), strategy.training.optimizer, strategy.training.schedule
    )
    shares = members.num_examples / members.num_examples.sum()
    wanted = {
        n: torch.tensordot(shares, t, 1) if t.is_floating_point() else start[n]
        for n, t in trained.weights.items()
    }
    found = federate(strategy, Toys(SPLITS), conv(), start, 1, **engine).state
    assert_close(found, wanted)
    assert found["body.1.num_batches_tracked"].item() == 3  # as it started, not averaged


def test_the_state_that_came_in_is_left_alone():
    start = initial(conv())
    before = copied(start)
    strategy = averaged()
    state = strategy.begin(start, (0, 1, 2))
    message = strategy.send(state, "train", 1, (0, 1, 2))
    members = cohort(conv(), SPLITS, clients=(0, 1, 2))
    update = strategy.answer("train", members, message)
    after = strategy.merge(state, "train", 1, [Answers((0, 1, 2), update)])
    assert_same_bits(state, before)
    assert_same_bits(start, before)
    assert not torch.isclose(after["head.bias"], before["head.bias"]).all()
    assert_same_bits(strategy.merge(state, "train", 1, []), before)
    tensors, metadata = strategy.pack(after)
    assert_same_bits(strategy.unpack(tensors, metadata), after)


def test_shared_statistics_are_averaged_like_everything_else():
    update = averaged().answer("train", cohort(conv(), SPLITS), sent(initial(conv()), (10, 11, 12)))
    assert update.weights.keys() == initial(conv()).keys()
    assert update.states == {}
    assert averaged().expected("train", initial(conv())).keys() == update.weights.keys()


def test_local_norms_never_leave_the_client():
    strategy = averaged("local")
    members = cohort(conv(), SPLITS)
    update = strategy.answer("train", members, sent(initial(conv()), members.clients))
    own = norms(conv())
    assert len(own) == 10
    assert update.weights.keys() == initial(conv()).keys() - own
    assert strategy.expected("train", initial(conv())).keys() == update.weights.keys()
    assert update.states["norms"].keys() == own
    assert not own & set(update.report)


def test_local_norms_stay_and_are_used_again():
    strategy, start = averaged("local"), initial(conv())
    benchmark = Toys([*SPLITS, split(6, seed=9)], unseen=[3])
    trial = federate(strategy, benchmark, conv(), start, 2)
    own = norms(conv())
    assert_same_bits({n: trial.state[n] for n in own}, {n: start[n] for n in own})
    states = [trial.client_pool.states().get(d, {}) for d in range(4)]
    assert [set(k) for k in states] == [{"norms"}] * 3 + [set()]
    used = strategy.localise(trial.worker.cohort(range(4), 3, states), repeat(trial.state, 4))
    for d in range(4):
        norms_of_client = {n: t for n, t in row(used, d).items() if n in own}
        assert_same_bits(
            norms_of_client, states[d]["norms"] if d < 3 else {n: start[n] for n in own}
        )
        rest = {n: t for n, t in row(used, d).items() if n not in own}
        assert_same_bits(rest, {n: t for n, t in trial.state.items() if n not in own})
    # What they kept is what evaluation is done with.
    scored = trial.worker.evaluate(
        2, range(4), strategy.models(trial.state, range(4)), states, adaptations=[_none()]
    ).rows
    members = trial.worker.cohort(range(4), 2)
    wanted = evaluate(members, used, [s.test for s in benchmark.splits])
    assert [r.loss for r in scored] == pytest.approx([s.loss for s in wanted], rel=1e-9)
    initially = evaluate(members, repeat(trial.state, 4), [s.test for s in benchmark.splits])
    same = [
        r.loss == pytest.approx(s.loss, rel=1e-6) for r, s in zip(scored, initially, strict=True)
    ]
    assert same == [False, False, False, True]


def _none():
    from fedadapt.client.adaptations.none import NoAdaptation

    return NoAdaptation()


def test_local_norms_of_the_first_round_start_the_second():
    # Two rounds by hand, client by client.
    strategy, start = averaged("local"), initial(conv())
    trial = federate(strategy, Toys(SPLITS), conv(), start, 2)
    own, shared, mine = norms(conv()), dict(start), [dict(start) for _ in SPLITS]
    for number in (1, 2):
        total = {n: torch.zeros_like(t) for n, t in shared.items() if n not in own}
        for d, images in enumerate(SPLITS):
            members = cohort(conv(), [images], clients=(d,), seed=1, round=number)
            begin = shared | {n: mine[d][n] for n in own}
            done = fit(
                members, repeat(begin, 1), strategy.training.optimizer, strategy.training.schedule
            )
            mine[d] = row(done.weights, 0)
            for n in total:
                total[n] += mine[d][n] * len(images.train) / 27
        shared |= total
    assert_close({n: trial.state[n] for n in total}, total)
    for d in range(3):
        assert_close(trial.client_pool.states()[d]["norms"], {n: mine[d][n] for n in own})


@pytest.mark.parametrize(
    "engine", [{"execution": "stacked-kernels", "cohort_size": 3}, {"cohort_size": 2}]
)
def test_reestimated_statistics_are_those_of_all_images_under_the_averaged_weights(engine):
    start = initial(conv())
    trial = federate(averaged("reestimate"), Toys(SPLITS), conv(), start, 1, **engine)
    pixels = torch.cat([s.train.inputs for s in SPLITS])
    x = torch.nn.functional.conv2d(pixels, trial.state["body.0.weight"], padding=1)
    torch.testing.assert_close(trial.state["body.1.running_mean"], x.mean((0, 2, 3)))
    variance = x.var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(trial.state["body.1.running_var"], variance)
    # All else is as if the statistics had been shared.
    shared = federate(averaged("shared"), Toys(SPLITS), conv(), start, 1, **engine).state
    kinds = ("running_mean", "running_var")
    others = [n for n in start if not n.endswith(kinds)]
    assert_same_bits({n: trial.state[n] for n in others}, {n: shared[n] for n in others})
    assert not torch.isclose(shared["body.1.running_var"], variance).all()
    assert [e.action for e in trial.communication] == ["train"] * 3 + [STATISTICS] * 3


def test_only_statistics_travel_to_reestimate_them():
    strategy = averaged("reestimate")
    members = cohort(conv(), SPLITS)
    update = strategy.answer(STATISTICS, members, sent(initial(conv()), members.clients))
    names = {f"body.{i}.running_{s}" for i in (1, 4) for s in ("mean", "var")}
    assert update.weights.keys() == names
    assert strategy.expected(STATISTICS, initial(conv())).keys() == names
    assert update.num_examples.tolist() == [5, 12, 10]
