"""A stacked layer gives each client exactly what the layer alone gives it."""

import copy

import pytest
import torch
from stacks import CLIENTS, same, stack_of
from torch import nn

from fedadapt.client.stacking import StackedNetwork
from fedadapt.models.mode import evaluating, training, training_norms

CONVOLUTIONS = {
    "dense": nn.Conv2d(6, 8, 3, padding=1),
    "dense, strided, without bias": nn.Conv2d(6, 8, 3, stride=(2, 1), bias=False),
    "dilated": nn.Conv2d(6, 4, 3, dilation=2, padding=2),
    "grouped": nn.Conv2d(6, 9, 3, groups=3),
    "same": nn.Conv2d(6, 4, 3, padding="same"),
    "1x1": nn.Conv2d(6, 8, 1),
    "1x1, strided": nn.Conv2d(6, 8, 1, stride=2, bias=False),
    "1x1, grouped": nn.Conv2d(6, 8, 1, groups=2),
    "1x1, padded": nn.Conv2d(6, 8, 1, padding=1),
    "1x1, many to few": nn.Conv2d(6, 2, 1),
    "depthwise": nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "depthwise, strided": nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=6, bias=False),
    "depthwise, twice the channels": nn.Conv2d(6, 12, 3, padding=1, groups=6),
}


@pytest.mark.parametrize("size", [7, 2, 1])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind, size):
    layer = CONVOLUTIONS[kind]
    if size < 3 and kind in ("dense, strided, without bias", "grouped"):
        pytest.skip("nothing would be left")
    model = nn.Sequential(nn.Conv2d(2, 6, 1), copy.deepcopy(layer), nn.Flatten())
    same(model, (2, size, size), steps=1)


NORMS = {
    "as it comes": nn.BatchNorm2d(5),
    "without scale": nn.BatchNorm2d(5, affine=False),
    "without statistics": nn.BatchNorm2d(5, track_running_stats=False),
    "averages": nn.BatchNorm2d(5, momentum=None),
    "other constants": nn.BatchNorm2d(5, momentum=0.3, eps=0.1),
}


@pytest.mark.parametrize("mode", [training, evaluating, training_norms])
@pytest.mark.parametrize("after", [nn.Identity(), nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, 0.5)])
@pytest.mark.parametrize("kind", NORMS)
def test_batch_norm_and_its_statistics(kind, after, mode):
    model = nn.Sequential(nn.Conv2d(2, 5, 1), copy.deepcopy(NORMS[kind]), after, nn.Flatten())
    same(model, (2, 3, 2), mode)


@pytest.mark.parametrize("shape", [(6,), (6, 4)])
@pytest.mark.parametrize("mode", [training, evaluating])
def test_batch_norm_of_features(shape, mode):
    same(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten()), shape, mode)


def test_batch_norm_whose_statistics_are_switched_off_later():
    model = nn.Sequential(nn.BatchNorm2d(5), nn.Flatten())
    model[0].track_running_stats = False
    for mode in (training, evaluating):
        same(model, (5, 3, 2), mode)


def test_batch_norm_refuses_a_single_value_a_channel():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    with training(model), pytest.raises(ValueError, match="larger batches"):
        StackedNetwork(model)(stack_of(model), torch.ones(CLIENTS, 1, 3, dtype=torch.float64))


@pytest.mark.parametrize("batch", [4, 5, 15, 16])
@pytest.mark.parametrize("bias", [True, False])
def test_a_large_linear_layer_computes_few_rows_as_it_does_many(batch, bias):
    model = nn.Sequential(nn.Linear(1024, 1024, bias=bias), nn.ReLU(), nn.Linear(1024, 3))
    same(model, (1024,), batch=batch, steps=1, clients=2)


ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU6(),
    nn.LeakyReLU(0.2),
    nn.ELU(),
    nn.SELU(),
    nn.CELU(),
    nn.GELU(),
    nn.SiLU(),
    nn.Mish(),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.LogSigmoid(),
    nn.Softplus(),
    nn.Softsign(),
    nn.Hardtanh(-0.2, 0.4),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.ReLU(inplace=True),
]


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=str)
def test_activations(layer):
    model = nn.Sequential(nn.Linear(4, 6), layer, nn.Linear(6, 3, bias=False))
    same(model, (4,), batch=1, steps=1)


OTHERS = [
    nn.MaxPool2d(2),
    nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
    nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveAvgPool2d((2, 3)),
    nn.AdaptiveMaxPool2d(2),
    nn.Identity(),
    nn.GroupNorm(2, 6),
    nn.LayerNorm([6, 5, 5]),
    nn.LayerNorm(5, bias=False),
    nn.Dropout(0.0),
]


@pytest.mark.parametrize("layer", OTHERS, ids=str)
def test_other_layers(layer):
    same(nn.Sequential(nn.Conv2d(2, 6, 3), layer, nn.Flatten()), (2, 7, 7), steps=1)
