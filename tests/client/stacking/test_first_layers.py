"""The beginning of an image network: its first convolution, and pools after ReLUs."""

import pytest
import torch
import torch.nn.functional as F
from stacks import same
from torch import nn
from torch.func import functional_call

from fedadapt.client.stacking import StackedNetwork, Unstackable
from fedadapt.client.stacking.patches import suits_patches


def steps_of(network):
    return [str(step.node.target) for step in network._steps]


FIRST = {
    "padded": nn.Conv2d(2, 16, 3, padding=1),
    "padded on one side more": nn.Conv2d(2, 17, (5, 2), padding=(2, 0)),
    "strided, without bias": nn.Conv2d(2, 16, 3, stride=(2, 3), padding=1, bias=False),
    "nearly as large as the image": nn.Conv2d(2, 20, (2, 5)),
}


@pytest.mark.parametrize("kind", FIRST)
def test_a_first_convolution_is_a_product_of_patches(kind):
    layer = FIRST[kind]
    assert suits_patches(layer)
    same(nn.Sequential(layer, nn.Flatten()), (layer.in_channels, 5, 6), steps=1)


@pytest.mark.parametrize("kind", FIRST)
def test_patches_are_for_images_without_a_gradient(kind):
    """Behind another layer the same convolution is PyTorch's."""
    layer = FIRST[kind]
    before = nn.Conv2d(2, layer.in_channels, 1)
    same(nn.Sequential(before, layer, nn.Flatten()), (2, 5, 6), steps=1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 16, 3),
        nn.Conv2d(1, 15, 3),
        nn.Conv2d(2, 16, 3, groups=2),
        nn.Conv2d(1, 16, 3, dilation=2),
        nn.Conv2d(1, 16, 3, padding="same"),
    ],
    ids=str,
)
def test_convolutions_that_no_patches_are_made_of(layer):
    assert not suits_patches(layer)
    same(nn.Sequential(layer, nn.Flatten()), (layer.in_channels, 5, 6), steps=1)


RELUS = [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardtanh(-0.2, 0.1)]
POOLS = [nn.MaxPool2d(2), nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)]


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("relu", RELUS, ids=str)
def test_a_pool_goes_before_the_relu_it_follows(relu, pool):
    model = nn.Sequential(nn.Conv2d(2, 6, 3), relu, pool, nn.Flatten())
    assert steps_of(StackedNetwork(model)) == ["0", "2", "3"]  # with the ReLU folded into it
    same(model, (2, 7, 7))
    normed = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), relu, pool, nn.Flatten())
    assert steps_of(StackedNetwork(normed)) == ["0", "1", "3", "4"]
    same(normed, (2, 7, 7))


def test_no_gradient_goes_through_a_window_that_is_clamped_as_a_whole():
    """All of a window at one bound: whichever is the largest, the ReLU lets nothing through."""
    values = torch.tensor([[-3.0, -1.0, 7.0, 9.0], [-2.0, -1.0, 6.0, 8.0]], dtype=torch.float64)
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU6(), nn.MaxPool2d(2))
    network = StackedNetwork(model.double())
    weights = {"0.weight": torch.ones(1, 1, 1, 1, 1, dtype=torch.float64, requires_grad=True)}
    pooled = network(weights, values.view(1, 1, 1, 2, 4))
    assert pooled.flatten().tolist() == [0.0, 6.0]
    [gradient] = torch.autograd.grad(pooled.sum(), list(weights.values()))
    assert gradient.item() == 0.0


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return F.max_pool2d(F.relu(self.layer(x)), 2).flatten(1)


class Summed(Functional):
    """The ReLU's values are wanted by somebody else as well."""

    def forward(self, x):
        positive = F.relu(self.layer(x))
        pooled = F.max_pool2d(positive, 4)
        return pooled.flatten(1) + positive.mean((2, 3))


class Overwritten(Functional):
    """What the in-place ReLU leaves in the convolution's place is used."""

    def forward(self, x):
        y = self.layer(x)
        return F.max_pool2d(F.relu(y, inplace=True), 4).flatten(1) + y.mean((2, 3))


def test_functions_are_reordered_like_layers():
    names = [step.node.name for step in StackedNetwork(Functional())._steps]
    assert names == ["layer", "max_pool2d", "relu", "flatten"]
    same(Functional(), (1, 6, 6))


def test_a_relu_that_is_used_twice_stays_where_it_is():
    names = [step.node.name for step in StackedNetwork(Summed())._steps]
    assert names.index("relu") < names.index("max_pool2d")
    same(Summed(), (1, 6, 6))


def test_a_relu_that_overwrites_what_is_used_again_is_refused_as_before():
    with pytest.raises(Unstackable, match="overwrites"):
        StackedNetwork(Overwritten())


def test_an_average_pool_does_not_commute():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten())
    assert steps_of(StackedNetwork(model)) == ["0", "1", "2", "3"]
    same(model, (1, 6, 6))


def test_a_first_convolution_under_autocast():
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.Flatten())
    inputs = torch.randn(2, 4, 1, 5, 6, generator=torch.Generator().manual_seed(1))
    weights = {n: t.detach().expand(2, *t.shape) for n, t in model.state_dict().items()}
    with torch.autocast("cpu", torch.bfloat16):
        found = StackedNetwork(model)(weights, inputs)
    wanted = torch.stack([functional_call(model, model.state_dict(), (x,)) for x in inputs])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.05, atol=0.05)


class Averaged(Functional):
    def forward(self, x):
        return F.avg_pool2d(F.relu(self.layer(x)), 2).flatten(1)


def test_an_average_pool_that_is_a_function_does_not_commute_either():
    same(Averaged(), (1, 6, 6))
