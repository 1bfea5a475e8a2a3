"""SCAFFOLD by hand, in its limits, and where FedAvg drifts."""

import pytest
import torch
from served import kept
from toys import (
    Quadratic,
    Toys,
    assert_close,
    assert_same_bits,
    conv,
    federate,
    initial,
    quadratic_split,
    split,
    training,
)

from fedadapt.client.fit import Sgd
from fedadapt.client.schedule import Schedule
from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.selectors import norms
from fedadapt.simulations.check import check
from fedadapt.strategies.base import LocalTraining
from fedadapt.strategies.shared.fedavg import FedAvg
from fedadapt.strategies.shared.scaffold import Scaffold

SPLITS = [split(count, seed=d) for d, count in enumerate((5, 7, 6))]
TWO = [quadratic_split(1.0, target) for target in (0.0, 4.0)]  # (w - c)^2 / 2 + 1
TEN = {"w": torch.tensor(10.0, dtype=torch.float64)}

# Client k holds n_k images and minimises h_k/2 (w - t_k)^2.
H, T, N = (torch.tensor(v, dtype=torch.float64) for v in ([1, 5, 2], [0, 1, -2], [4, 1, 3]))
PROBLEM = Toys([quadratic_split(h, t, int(n)) for h, t, n in zip(H, T, N, strict=True)])
OPTIMUM = (N * H * T).sum() / (N * H).sum()


def run(strategy, rounds=2, benchmark=None, **how):
    benchmark = benchmark or Toys(SPLITS)
    return federate(strategy, benchmark, conv(), initial(conv()), rounds, **how)


def toy(rounds, benchmark=None, local=None, **arguments):
    strategy = Scaffold(model=Quadratic(), training=local or training(0.5), **arguments)
    return federate(strategy, benchmark or Toys(TWO), Quadratic(), TEN, rounds)


@pytest.mark.parametrize(
    ("rounds", "shared", "control", "own"),
    [(1, 6, 8, [10, 6]), (2, 4, 4, [6, 2]), (3, 3, 2, [4, 0])],
)
def test_one_step_a_round_by_hand(rounds, shared, control, own):
    """In round 2 the steps are (6 - 10 + 8) / 2 and (2 - 6 + 8) / 2: both clients end at 4."""
    trial = toy(rounds)
    assert trial.state["w"].item() == pytest.approx(shared)
    assert trial.state["c/w"].item() == pytest.approx(control)
    assert kept(trial, "control", "w") == pytest.approx(own)


def test_the_servers_rate_is_a_step_towards_the_mean():
    assert toy(1, server_rate=0.5).state["w"].item() == 8
    assert toy(1, server_rate=2.0).state["w"].item() == 2
    assert toy(1, server_rate=2.0).state["c/w"].item() == 8


def test_a_control_variate_is_the_mean_gradient_over_the_steps_of_its_client():
    """Batches of two: four images are two steps an epoch, one is one, and three are one."""
    trial = toy(1, PROBLEM, training(0.1, epochs=3, batch_size=2))
    for d, steps in enumerate((6, 3, 3)):
        w, gradients = 10.0, []
        for _ in range(steps):
            gradients.append(H[d].item() * (w - T[d].item()))
            w -= 0.1 * gradients[-1]
        assert kept(trial, "control", "w")[d] == pytest.approx(sum(gradients) / steps)
    means = torch.tensor(kept(trial, "control", "w")).double()
    torch.testing.assert_close(trial.state["c/w"], (N * means).sum() / N.sum())


@pytest.mark.parametrize(
    ("schedule", "size", "batches"),
    [
        (Schedule(2), 4, 2), (Schedule(2, 3), 4, 6), (Schedule(2), 3, 1), (Schedule(2), 1, 1),
        (Schedule(32), 5, 1), (Schedule(1), 3, 3), (Schedule(2, steps=5), 4, 5),
    ],
)  # fmt: skip
def test_a_schedule_knows_its_batches(schedule, size, batches):
    assert schedule.num_batches(size) == batches


def test_many_steps_a_round_do_not_drift_from_the_joint_optimum():
    local = training(0.1, epochs=4)
    found = toy(30, PROBLEM, local).state
    torch.testing.assert_close(found["w"], OPTIMUM, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found["c/w"], torch.zeros(()).double(), rtol=0, atol=1e-3)
    fedavg = FedAvg(model=Quadratic(), training=local)
    drifted = federate(fedavg, PROBLEM, Quadratic(), TEN, 30).state["w"]
    assert not torch.isclose(drifted, OPTIMUM, rtol=0.1)


def test_the_servers_control_variate_moves_by_the_share_of_clients_that_answered():
    trial = toy(1, Toys([TWO[0], RuntimeError("gone")]))
    assert trial.state["w"].item() == 5
    assert trial.state["c/w"].item() == 10 / 2
    assert set(trial.client_pool.states()) == {0}


@pytest.mark.parametrize("how", [{}, {"execution": "stacked-kernels", "cohort_size": 3}])
def test_identical_clients_are_those_of_fedavg(how):
    """Batches are drawn by client, so that these are alike only as a whole."""
    local = training(0.1, 2, batch_size=6)
    alike = Toys([SPLITS[2]] * 3)
    found = run(Scaffold(model=conv(), training=local), 3, alike, **how).state
    wanted = run(FedAvg(model=conv(), training=local), 3, alike, **how).state
    assert_close({n: found[n] for n in wanted}, wanted)


def test_the_first_round_is_that_of_fedavg_to_the_bit_and_the_next_is_not():
    local = training(0.1, 2)
    strategy, fedavg = Scaffold(model=conv(), training=local), FedAvg(model=conv(), training=local)
    found, wanted = run(strategy, 1).state, run(fedavg, 1).state
    assert_same_bits({n: found[n] for n in wanted}, wanted)
    later, other = run(strategy, 2).state, run(fedavg, 2).state
    assert not torch.allclose(later["head.weight"], other["head.weight"])


def test_a_model_and_control_variates_of_its_parameters_travel_in_both_directions():
    trial = run(Scaffold(model=conv(), training=training(0.1)))
    start, parameters = initial(conv()), {n for n, _ in conv().named_parameters()}
    network = sum(t.nbytes for t in start.values())
    control = sum(t.nbytes for n, t in start.items() if n in parameters)
    entries = trial.communication
    assert {entry.bytes_down for entry in entries} == {network + control}
    assert {entry.bytes_up for entry in entries} == {network + control + 2 * 8}


def test_batch_norm_that_stays_on_the_client_has_no_control_variates():
    trial = run(Scaffold(model=conv(), training=training(0.1), batch_norm="local"))
    controlled = {n.removeprefix("c/") for n in trial.state if n.startswith("c/")}
    assert controlled == {n for n, _ in conv().named_parameters()} - norms(conv())


def test_there_is_no_momentum_and_giving_one_is_refused():
    with pytest.raises(InputError, match="momentum: scaffold does not use it; leave it out"):
        check(RunConfig(strategy="scaffold"), ["momentum"])
    found, wanted = (toy(2, local=training(0.5, momentum=m)).state for m in (0.9, 0.0))
    assert_same_bits(found, wanted)


def test_weight_decay_is_a_part_of_the_gradient():
    local = LocalTraining(optimizer=Sgd(0.5, weight_decay=0.1), epochs=1)
    assert kept(toy(1, local=local), "control", "w") == pytest.approx([11, 7])
