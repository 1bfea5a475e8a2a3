"""Stacked layers for time series and tokens give each client exactly what the layer alone does."""

import copy

import pytest
import torch
from stacks import CLIENTS, close, differentiable, gradients, same, stack_of
from torch import nn
from torch.func import functional_call

from fedadapt.client.stacking import StackedNetwork, trace
from fedadapt.client.stacking.rule import plan
from fedadapt.models.build import make_network
from fedadapt.models.mode import evaluating, training, training_norms

CONVOLUTIONS = {
    "plain": nn.Conv1d(3, 4, 3, padding=1),
    "strided, without bias": nn.Conv1d(3, 4, 5, stride=2, padding=2, bias=False),
    "dilated": nn.Conv1d(3, 4, 3, dilation=2),
    "grouped": nn.Conv1d(3, 6, 3, groups=3),
    "same": nn.Conv1d(3, 4, 3, padding="same"),
    "1": nn.Conv1d(3, 4, 1),
}
POOLS = {
    "max": nn.MaxPool1d(2),
    "average": nn.AvgPool1d(3, stride=2),
    "adaptive average": nn.AdaptiveAvgPool1d(1),
    "adaptive maximum": nn.AdaptiveMaxPool1d(2),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_over_time(kind):
    layer = copy.deepcopy(CONVOLUTIONS[kind])
    same(nn.Sequential(nn.Conv1d(2, 3, 1), layer, nn.ReLU(), nn.Flatten()), (2, 8), steps=1)


@pytest.mark.parametrize("kind", POOLS)
def test_pools_over_time(kind):
    layer = copy.deepcopy(POOLS[kind])
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.ReLU(), layer, nn.Flatten())
    same(model, (2, 7))


@pytest.mark.parametrize("mode", [training_norms, evaluating])
def test_the_network_for_time_series(mode):
    torch.manual_seed(0)
    same(make_network("har-cnn", (9, 16), 6), (9, 16), mode)


class States(nn.Module):
    """Uses both results of a GRU."""

    def __init__(self, **settings):
        super().__init__()
        self.gru = nn.GRU(3, 4, **settings)
        self.head = nn.Linear(8 if settings.get("bidirectional") else 4, 2)
        self.other = nn.Linear(4, 2)

    def forward(self, x):
        states, last = self.gru(x)
        states = states[:, 1] if self.gru.batch_first else states[1]
        return self.head(states) + self.other(last[0]) - self.other(last[-1]) * 2


GRUS = {
    "one layer": {"batch_first": True},
    "time first": {},
    "without bias": {"batch_first": True, "bias": False},
    "two layers": {"batch_first": True, "num_layers": 2},
    "both directions": {"batch_first": True, "bidirectional": True},
    "all of it": {"num_layers": 2, "bidirectional": True},
}


@pytest.mark.parametrize("kind", GRUS)
def test_recurrent_layers(kind):
    torch.manual_seed(0)
    same(States(**GRUS[kind]), (5, 3), steps=1)


def test_the_network_for_tokens_and_its_embedding():
    torch.manual_seed(0)
    model = make_network("char-gru", (6,), 5, 7).double()
    network, weights = StackedNetwork(copy.deepcopy(model).to("meta")), stack_of(model)
    tokens = torch.randint(0, 7, (CLIENTS, 4, 6), generator=torch.Generator().manual_seed(3))
    for given_weights in (weights, {n: t[:1].expand(t.shape) for n, t in weights.items()}):
        given, names = differentiable(model, given_weights)
        logits = network(given, tokens)
        found = gradients(given, names, logits)
        for d in range(CLIENTS):
            own, _ = differentiable(model, {n: t[d] for n, t in given_weights.items()})
            wanted = functional_call(model, own, (tokens[d],))
            close(logits[d], wanted)
            for g, w in zip(found, gradients(own, names, wanted[None]), strict=True):
                close(g[d], w)
    with pytest.raises(IndexError, match=r"embedding: token 7 of 7"):
        network(weights, tokens + 1)  # never a row of the next client's table


UNSTACKABLE = {
    "dropout between layers": States(num_layers=2, dropout=0.5),
    "a token apart": nn.Sequential(nn.Embedding(4, 2, padding_idx=0), nn.Flatten()),
    "rows that are renewed": nn.Sequential(nn.Embedding(4, 2, max_norm=1.0), nn.Flatten()),
    "padding by mirrors": nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect"),
    "indices": nn.MaxPool1d(2, return_indices=True),
}


@pytest.mark.parametrize("kind", UNSTACKABLE)
def test_what_cannot_be_stacked_is_said_so(kind):
    assert trace(UNSTACKABLE[kind]) is None


def test_the_rule_stacks_both_networks():
    for name, shape, vocabulary in (("har-cnn", (9, 128), 0), ("char-gru", (80,), 80)):
        chosen = plan(make_network(name, shape, 6, vocabulary), shape, 32)
        assert chosen.execution == "stacked-kernels"
        assert chosen.cohort_size > 1


def test_modes_are_those_of_the_layers():
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.Flatten())
    same(model, (2, 5), training)
