"""A stacked network gives each client exactly what the network alone does, or says it cannot."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from stacks import CLIENTS, close, differentiable, gradients, same, stack_of
from torch import nn
from torch.func import functional_call

from fedadapt.client.stacking import StackedNetwork, Unstackable, trace
from fedadapt.models.build import make_network
from fedadapt.models.mode import evaluating, training, training_norms
from fedadapt.models.networks.alexnet import alexnet
from fedadapt.models.networks.resnet import BasicBlock
from fedadapt.models.networks.vgg import vgg11_fc
from fedadapt.models.registry import ENTRIES, IMAGES, TOKENS


class Functional(nn.Module):
    """Written as people write networks."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.gate = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.head = nn.Linear(48, 4)

    def forward(self, x):
        x = F.relu(self.first(x))
        y = torch.cat([x, -1.0 * torch.tanh(self.second(x))], 1)
        left, right = y.chunk(2, dim=1)
        b, c, h, w = left.shape
        left = left.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        gate = torch.sigmoid(self.gate(x.mean((2, 3)))).view(x.size(0), -1, 1, 1)
        x = x + left * gate + right * self.scale
        x += x.mean([2, 3], keepdim=True)
        x = torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(x, 2)], dim=-3)
        x = x[:, :, 1:]
        return self.head(torch.flatten(x, 1)) / 2 - 1


@pytest.mark.parametrize("batch", [1, 3])
def test_functions_methods_and_parameters_of_the_network_itself(batch):
    same(Functional(), (2, 6, 5), batch=batch, steps=1)


def wide_alexnet(image_shape, num_classes):
    return alexnet(image_shape, num_classes, hidden=8)


def small_vgg_with_layers(image_shape, num_classes):
    return vgg11_fc(image_shape, num_classes, batch_norm=True, hidden=4)


NETWORKS = {
    "mlp": (partial(make_network, "mlp"), (1, 8, 8)),
    "lenet": (partial(make_network, "lenet"), (1, 28, 28)),
    "cnn": (partial(make_network, "cnn"), (1, 8, 8)),
    "squeezenet": (partial(make_network, "squeezenet1_1"), (3, 17, 17)),
    "resnet18": (partial(make_network, "resnet18"), (3, 16, 16)),
    "vgg11-bn-fc": (small_vgg_with_layers, (3, 32, 32)),
    "alexnet": (wide_alexnet, (3, 63, 63)),
    "mobilenetv2": (partial(make_network, "mobilenetv2-0.25"), (3, 32, 32)),
}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_network_of_the_catalogue_can_be_stacked(entry):
    shape = (3, 64, 64) if IMAGES in entry.takes else entry.usual_shape
    with torch.device("meta"):
        model = make_network(entry.name, shape, 10, 5 if TOKENS in entry.takes else 0)
        assert trace(model) is not None


@pytest.mark.parametrize("name", NETWORKS)
def test_the_catalogue(name):
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    if name in ("resnet18", "vgg11-bn-fc"):  # their parts are tested with gradients
        same(make(shape, 10), shape, evaluating, 1, clients=2, steps=1, learning=False)
    else:
        same(make(shape, 10), shape, training_norms, clients=2, steps=1)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_residual_block(stride):
    same(nn.Sequential(BasicBlock(4, 4 * stride, stride), nn.Flatten()), (4, 5, 5))


def test_a_network_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=10)
    same(model, (3, 32, 32), training_norms, clients=2, steps=1)


@pytest.mark.parametrize("mode", [training, evaluating])
def test_a_cohort_of_one(mode):
    same(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten()), (1, 2, 2), mode, 4, 1)


def test_the_same_model_for_all_takes_no_copies():
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()).double()
    inputs = torch.randn(CLIENTS, 4, 2, 3, 3, dtype=torch.float64)
    weights = {n: t.expand(CLIENTS, *t.shape) for n, t in model.state_dict().items()}
    with evaluating(model):
        close(StackedNetwork(model)(weights, inputs).flatten(0, 1), model(inputs.flatten(0, 1)))
    with training(model), pytest.raises(RuntimeError):  # nowhere to keep a client's statistics
        StackedNetwork(model)(weights, inputs)


def test_what_enters_a_batch_norm_layer_is_shown():
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(24))
    network, weights = StackedNetwork(model), stack_of(model)
    seen = {}
    inputs = torch.randn(CLIENTS, 5, 2, 2, 3, dtype=torch.float64)
    with training(model):
        network(weights, inputs, seen=seen.__setitem__)
    wanted = torch.stack([
        F.conv2d(x, w, b)
        for x, w, b in zip(inputs, weights["0.weight"], weights["0.bias"], strict=True)
    ])  # fmt: skip
    assert list(seen) == ["1", "3"]
    close(seen["1"].sort(-1)[0], wanted.transpose(1, 2).flatten(2).sort(-1)[0])
    assert seen["3"].shape == (CLIENTS, 24, 5)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d])
def test_dropout_draws_what_the_network_alone_draws(kind):
    model = nn.Sequential(nn.Conv2d(1, 4, 1), kind(0.3), nn.Flatten(), nn.Dropout(0.5)).double()
    network, weights = StackedNetwork(model), stack_of(model)
    inputs = torch.ones(CLIENTS, 5, 1, 3, 3, dtype=torch.float64)
    draws = [torch.Generator().manual_seed(d) for d in range(CLIENTS)]
    with training(model), torch.random.fork_rng():
        found = network(weights, inputs, generators=draws)
        for d in range(CLIENTS):
            torch.manual_seed(d)
            own = {n: t[d] for n, t in weights.items()}
            close(found[d], functional_call(model, own, (inputs[d],)))
    with training(model), pytest.raises(ValueError, match="generator for each client"):
        network(weights, inputs)
    with evaluating(model):
        network(weights, inputs)


def test_bfloat16_autocast():
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 4, 1),
        nn.Flatten(),
        nn.Linear(64, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )
    network = StackedNetwork(model)
    weights = {n: t.clone() if n.startswith("1.") else t for n, t in stack_of(model).items()}
    weights = {n: t.float() if t.is_floating_point() else t for n, t in weights.items()}
    inputs = torch.randn(CLIENTS, 5, 2, 4, 4)
    with training(model):
        given, names = differentiable(model, weights)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(given, inputs)
        assert logits.dtype == torch.bfloat16
        exact, _ = differentiable(model, weights)
        wanted = network(exact, inputs)
        torch.testing.assert_close(logits.float(), wanted, rtol=0.1, atol=0.05)
        pairs = zip(
            gradients(given, names, logits.float()), gradients(exact, names, wanted), strict=True
        )
        for found, full in pairs:
            assert found.dtype == torch.float32
            scale = full.abs().max().item()
            torch.testing.assert_close(found, full, rtol=0.3, atol=0.1 * scale + 1e-3)


class Shared(nn.Module):
    """One layer, called twice."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.layer(F.relu(self.norm(self.layer(x)))))


def test_a_layer_that_is_called_twice():
    same(Shared(), (4,))


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class AsksForTheMode(nn.Module):
    def forward(self, x):
        return x + 1 if self.training else x


class Overwriting(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(x) + x


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(4, 4)

    def forward(self, x):
        return self.layer(x)[0]


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


UNSTACKABLE = {
    "control flow by data": Branching(),
    "mode in its code": AsksForTheMode(),
    "overwrites what it reads later": Overwriting(),
    "unknown layer": Recurrent(),
    "unknown function": nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)),
    "a layer changed by inheritance": nn.Sequential(Doubled(4, 4)),
    "a tensor of two names": tied(),
    "padding by mirrors": nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
    "indices": nn.MaxPool2d(2, return_indices=True),
}


@pytest.mark.parametrize("kind", UNSTACKABLE)
def test_what_cannot_be_stacked_is_said_so(kind):
    assert trace(UNSTACKABLE[kind]) is None
    with pytest.raises(Unstackable):
        StackedNetwork(UNSTACKABLE[kind])


def test_tracing_leaves_the_mode_of_the_network_alone():
    model = nn.Sequential(nn.Linear(4, 4).eval(), nn.BatchNorm1d(4).train())
    model.training = False
    assert trace(model) is not None
    assert [m.training for m in model.modules()] == [False, False, True]
