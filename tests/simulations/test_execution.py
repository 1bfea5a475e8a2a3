"""How a run's devices are computed is a function of its settings and its network."""

import pytest
import torch
from torch import nn
from toys import conv, dense

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.simulations.execution import plan_for


class Undecided(nn.Module):
    """What it does depends on the images."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(x if x.sum() > 0 else -x)


def planned(model, **settings):
    return plan_for(RunConfig(**settings), model, (1, 4, 4), torch.device("cpu"))


def test_a_dense_network_is_stacked_and_one_with_decisions_is_not():
    assert planned(dense()).execution == "kernels"
    assert planned(Undecided()).execution == "one-by-one"
    assert planned(dense()) == planned(dense())


def test_the_run_may_say_otherwise():
    assert planned(dense(), execution="one-by-one").execution == "one-by-one"
    assert planned(conv(), execution="stacked").execution == "kernels"
    for model in (dense(), conv(), Undecided()):
        assert planned(model, cohort_size=7).cohort_size == 7


def test_what_cannot_be_stacked_is_refused_in_a_line():
    with pytest.raises(InputError, match="execution: mlp has parts that cannot be stacked; use"):
        planned(Undecided(), execution="stacked")
