"""Modes are switched for a while, and every submodule gets its own one back."""

import pytest
import torch
from torch import nn

from fedadapt.models.mode import evaluating, training, training_norms
from fedadapt.models.norms import batch_norms, has_batch_norm


class Odd(nn.BatchNorm2d):
    """A subclass under a name that says nothing."""


@pytest.fixture
def model():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1),
        Odd(2),
        nn.Sequential(nn.Dropout(), nn.BatchNorm2d(2)),
        nn.GroupNorm(1, 2),
    )
    net.train()
    net[2].eval()  # mixed on purpose: a frozen part
    net[2][0].train()
    return net


MODES = [evaluating, training, training_norms]


def modes(model):
    return [m.training for m in model.modules()]


@pytest.mark.parametrize("mode", MODES)
def test_mixed_modes_come_back(model, mode):
    before = modes(model)
    with mode(model) as same:
        assert same is model
    assert modes(model) == before


@pytest.mark.parametrize("mode", MODES)
def test_mixed_modes_come_back_after_an_error(model, mode):
    before = modes(model)
    with pytest.raises(RuntimeError, match="inside"), mode(model):
        raise RuntimeError("inside")
    assert modes(model) == before


def test_evaluating_and_training_reach_everything_and_nest(model):
    with evaluating(model):
        assert not any(modes(model))
        with training(model):
            assert all(modes(model))
        assert not any(modes(model))


def test_training_norms_moves_statistics_and_drops_nothing(model):
    with training_norms(model), torch.no_grad():
        assert [m for m in model.modules() if m.training] == [model[1], model[2][1]]
        model(torch.randn(4, 1, 3, 3))
    assert model[1].num_batches_tracked == 1
    assert model[2][1].num_batches_tracked == 1


def test_batch_norm_is_found_by_type(model):
    assert list(batch_norms(model)) == ["1", "2.1"]
    assert has_batch_norm(nn.BatchNorm1d(2))
    assert not has_batch_norm(
        nn.Sequential(nn.GroupNorm(1, 2), nn.InstanceNorm2d(2), nn.LayerNorm(2))
    )
