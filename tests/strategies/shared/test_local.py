"""Local training where the answer is known: clients that minimise h/2 (w - t)^2 by themselves."""

import pytest
import torch
from toys import Quadratic, Toys, assert_same_bits, federate, quadratic_split, training

from fedadapt.strategies.shared.local import Local

H, T, N = (torch.tensor(v, dtype=torch.float64) for v in ([1, 5, 2], [0, 1, -2], [4, 1, 3]))
PROBLEM = [quadratic_split(h, t, int(n)) for h, t, n in zip(H, T, N, strict=True)]
START = {"w": torch.tensor(3.0, dtype=torch.float64)}


@pytest.mark.parametrize("rounds", [1, 4])
def test_a_client_goes_on_from_its_own_model_in_every_round(rounds):
    """E epochs of one gradient step take w to t + (1 - lr h)^E (w - t), whatever others do."""
    lr, epochs = 0.05, 3
    strategy = Local(model=Quadratic(), training=training(lr, epochs))
    trial = federate(strategy, Toys(PROBLEM), Quadratic(), START, rounds)
    states = trial.client_pool.states()
    personal = torch.stack([states[d]["personal"]["w"] for d in range(3)])
    wanted = T + (1 - lr * H) ** (epochs * rounds) * (START["w"] - T)
    torch.testing.assert_close(personal, wanted)


def test_no_weights_leave_a_client_and_the_base_model_stays():
    strategy = Local(model=Quadratic(), training=training(0.05))
    trial = federate(strategy, Toys(PROBLEM), Quadratic(), START, 2)
    assert_same_bits(trial.state, START)
    numbers = 2 * 8  # its loss and its number of images
    assert {entry.bytes_up for entry in trial.communication} == {numbers}
