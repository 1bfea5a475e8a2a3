"""Ditto where the answer is known: clients that minimise h/2 (v - t)^2."""

import pytest
import torch
from toys import Quadratic, Toys, assert_same_bits, federate, quadratic_split, training

from fedadapt.strategies.shared.ditto import Ditto
from fedadapt.strategies.shared.fedavg import FedAvg

# Client k holds n_k images and minimises h_k/2 (w - t_k)^2.
H, T, N = (torch.tensor(v, dtype=torch.float64) for v in ([1, 5, 2], [0, 1, -2], [4, 1, 3]))
P = N / N.sum()
PROBLEM = [quadratic_split(h, t, int(n)) for h, t, n in zip(H, T, N, strict=True)]
OPTIMUM = (P * H * T).sum() / (P * H).sum()
START = {"w": torch.tensor(3.0, dtype=torch.float64)}


def run(strategy, rounds, problem=PROBLEM):
    """The shared model, and the personal ones [3], after some rounds."""
    trial = federate(strategy, Toys(problem), Quadratic(), START, rounds)
    states = trial.client_pool.states()
    personal = [states[d]["personal"]["w"] for d in range(3)] if states else []
    return trial, torch.stack(personal) if personal else None


def ditto(lam, lr=0.1, epochs=1):
    return Ditto(model=Quadratic(), training=training(lr, epochs), lam=lam)


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.0, 0.5, 3.0])
def test_a_personal_model_settles_between_its_client_and_the_shared_model(lam):
    _, personal = run(ditto(lam), rounds=400)
    wanted = (H * T + lam * OPTIMUM) / (H + lam)
    torch.testing.assert_close(personal, wanted, rtol=1e-6, atol=1e-6)


def test_one_round_is_epochs_of_gradient_steps_from_what_was_received():
    lam, lr, epochs = 2.0, 0.05, 3
    _, personal = run(ditto(lam, lr, epochs), rounds=1)
    curvature, end = H + lam, (H * T + lam * START["w"]) / (H + lam)
    torch.testing.assert_close(personal, end + (1 - lr * curvature) ** epochs * (START["w"] - end))


def test_the_shared_model_is_that_of_fedavg_to_the_bit():
    shared = run(ditto(0.7, epochs=2), rounds=3)[0].state
    average = run(FedAvg(model=Quadratic(), training=training(0.1, 2)), rounds=3)[0].state
    assert_same_bits(shared, average)


def test_personal_models_stay_on_their_clients():
    trial, _ = run(ditto(0.7), rounds=2)
    assert list(trial.method.models([0, 1])) == ["base"]
    assert Ditto.made_on_client == ("personal",)
    sizes = {entry.bytes_down for entry in trial.communication}
    assert sizes == {START["w"].nbytes}  # one model a round, whatever a client keeps
