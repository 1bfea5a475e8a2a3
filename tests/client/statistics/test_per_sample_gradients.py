"""Sums of magnitudes of images' gradients: each layer's rule, and who must not have one."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from toys import assert_close, assert_same_bits, cohort, copied, initial, split

from fedadapt.client.statistics import per_sample_gradients as image_gradients
from fedadapt.client.statistics.importance import importances
from fedadapt.client.statistics.per_sample_gradients import layers_of, magnitudes
from fedadapt.weights import repeat, row

SHAPE = (4, 6, 6)
MAGNITUDES = [torch.abs, torch.square]


class Residual(nn.Module):
    """What enters a convolution is used again; ReLUs overwrite what they are given."""

    def __init__(self):
        super().__init__()
        self.norm, self.first = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.second = nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x):
        return x + self.second(self.relu(self.first(self.norm(x))))


class Idle(nn.Module):
    """A layer that is computed for nothing."""

    def __init__(self):
        super().__init__()
        self.layer, self.idle = nn.Linear(144, 3), nn.Linear(144, 3)

    def forward(self, x):
        self.idle(x.flatten(1))
        return self.layer(x.flatten(1))


NETWORKS = {
    "idle": Idle(),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(144, 5), nn.Tanh(), nn.Linear(5, 3)),
    "no bias": nn.Sequential(nn.Flatten(), nn.Linear(144, 3, bias=False)),
    "batch norm of vectors": nn.Sequential(
        nn.Flatten(), nn.Linear(144, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Linear(5, 3)
    ),
    "strides and padding": nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(54, 3)
    ),
    "one by one with strides": nn.Sequential(
        nn.Conv2d(4, 6, 1, stride=(2, 1)), nn.Flatten(), nn.Linear(6 * 3 * 6, 3)
    ),
    "one by one with padding": nn.Sequential(
        nn.Conv2d(4, 3, 1, padding=1), nn.Flatten(), nn.Linear(3 * 8 * 8, 3)
    ),
    "dilation": nn.Sequential(nn.Conv2d(4, 5, (3, 2), dilation=2), nn.Flatten(), nn.Linear(40, 3)),
    "groups": nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, padding=(0, 1)), nn.Flatten(), nn.Linear(144, 3)
    ),
    "one filter a channel": nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4, padding=1), nn.Flatten(), nn.Linear(144, 3)
    ),
    "one filter a channel, all at odds": nn.Sequential(
        nn.Conv2d(4, 4, (3, 2), (2, 1), (1, 2), (1, 3), groups=4), nn.Flatten(), nn.Linear(84, 3)
    ),
    "two a channel": nn.Sequential(nn.Conv2d(4, 8, 2, groups=4), nn.Flatten(), nn.Linear(200, 3)),
    "overwriting": nn.Sequential(
        nn.Conv2d(4, 3, 3, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ),
    "residual": nn.Sequential(Residual(), Residual(), nn.Flatten(), nn.Linear(144, 3)),
}


class Twice(nn.Module):
    """One layer, applied twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(self.conv(x).relu()).mean((2, 3))


class ReadByOthers(nn.Module):
    """A layer's weight that is used without the layer as well."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(144, 3)

    def forward(self, x):
        return self.layer(x.flatten(1)) + self.layer.weight.mean(1)


class Places(nn.Module):
    """A linear layer at each of 36 places."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x.flatten(2).transpose(1, 2)).relu().mean(1)


class Rows(nn.Module):
    """Places as if they were images."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        places = x.flatten(2).transpose(1, 2)
        return self.layer(places.flatten(0, 1)).relu().unflatten(0, (-1, 36)).mean(1)


class Branching(nn.Module):
    """Nothing that ``torch.fx`` can follow."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(144, 3)

    def forward(self, x):
        return self.layer(x.flatten(1)) if len(x) else x


class Louder(nn.Linear):
    """Not what its base class is."""

    def forward(self, x):
        return 2 * super().forward(x)


OTHERS = {
    "applied twice": Twice(),
    "read by others": ReadByOthers(),
    "not traced": Branching(),
    "a subclass": nn.Sequential(nn.Flatten(), Louder(144, 3)),
    "group norm": nn.Sequential(nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 3)),
    "circular padding": nn.Sequential(
        nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(72, 3)
    ),
    "padding in words": nn.Sequential(
        nn.Conv2d(4, 2, 3, padding="same"), nn.Flatten(), nn.Linear(72, 3)
    ),
}


def images(count=5):
    random = torch.Generator().manual_seed(1)
    return torch.randn(count, *SHAPE, generator=random, dtype=torch.float64)


def cubes(logits):
    """A score as good as any: the mean over images of the sum of cubes."""
    return (logits**3).sum(1).mean()


def squares(logits):
    """The score of MAS."""
    return logits.square().sum(1).mean()


def by_hand(model, weights, x, magnitude, score=cubes):
    """Image by image through ``backward``, in evaluation mode."""
    model = model.double().eval()
    model.load_state_dict(weights)
    total = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for image in x.split(1):
        model.zero_grad()
        score(model(image.clone())).backward()
        for n, p in model.named_parameters():
            total[n] += magnitude(torch.zeros_like(p) if p.grad is None else p.grad)
    return total


def check(model, score, magnitude, x):
    """The fast way finds what is found by hand."""
    weights, layers = initial(model), layers_of(model, [n for n, _ in model.named_parameters()])
    assert layers is not None
    wanted = by_hand(copy.deepcopy(model), weights, x, magnitude)
    members = cohort(copy.deepcopy(model), [split(1)])
    members.model.eval()
    sums = magnitudes(members, weights, layers, x, score, magnitude)
    assert sums is not None
    assert_close(sums, wanted)


@pytest.mark.parametrize("block", [1, 100, 2**18])
@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_sum_over_images_is_that_of_each_one_by_itself(network, magnitude, block, monkeypatch):
    """However small the blocks in which products are made."""
    monkeypatch.setattr(image_gradients, "BLOCK", block)
    check(NETWORKS[network], cubes, magnitude, images())


@pytest.mark.parametrize("network", OTHERS)
def test_a_network_without_a_rule_is_measured_in_the_general_way(network):
    assert importances_are_right(OTHERS[network])
    names = [n for n, _ in OTHERS[network].named_parameters()]
    assert layers_of(OTHERS[network], names) is None


def importances_are_right(model) -> bool:
    """Those of the public function, for MAS."""
    x, weights = images(), initial(model)
    one = split(1)
    own = one._replace(adapt=replace(one.train, inputs=x, labels=torch.zeros(5)))
    members = cohort(copy.deepcopy(model), [own])
    sums = row(importances(members, repeat(weights, 1)), 0)
    wanted = by_hand(copy.deepcopy(model), weights, x, torch.abs, score=squares)
    assert_close(sums, {n: t / 5 for n, t in wanted.items()})
    return True


@pytest.mark.parametrize("model", [Places(), Rows()])
def test_what_only_shows_while_computing_is_refused_then_and_measured_in_the_general_way(model):
    members, weights = cohort(copy.deepcopy(model), [split(1)]), initial(model)
    layers = layers_of(model, [n for n, _ in model.named_parameters()])
    assert layers is not None
    assert magnitudes(members, weights, layers, images(), cubes, torch.abs) is None
    assert importances_are_right(model)


def test_a_tensor_with_two_names_has_no_rule():
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 9), nn.Linear(9, 9))
    model[2].weight = model[1].weight
    assert layers_of(model, ["1.weight", "1.bias"]) is None


def test_only_the_layers_that_are_asked_for_need_a_rule():
    model = nn.Sequential(nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 3))
    assert layers_of(model, ["2.weight", "2.bias"]) == ("2",)


def test_nothing_is_watched_afterwards_and_no_argument_is_moved():
    model, x = copy.deepcopy(NETWORKS["residual"]), images()
    weights, before = initial(model), images()
    layers = layers_of(model, [n for n, _ in model.named_parameters()])
    states = copied(weights)
    members = cohort(model, [split(1)])
    members.model.eval()
    with torch.no_grad():  # whoever asks
        magnitudes(members, weights, layers or (), x, cubes, torch.abs)
    assert not any(m._forward_hooks for m in members.model.modules())
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert_same_bits(weights, states)
