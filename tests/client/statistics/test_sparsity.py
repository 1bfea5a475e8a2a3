"""What a client's sparsity vector is for networks of any make, beyond PFA's own example."""

import copy
from collections.abc import Callable

import pytest
import torch
import toys
from torch import Tensor, nn
from torch.nn import functional

from fedadapt.client.statistics import sparsity as activations
from fedadapt.client.statistics.sparsity import chosen, num_channels, sparsity_vectors, trace
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.errors import InputError
from fedadapt.weights import repeat, stack


def reported(model: nn.Module, images: Tensor, **how: object) -> Tensor:
    mine = Examples(images, torch.zeros(len(images), dtype=torch.int64))
    cohort = toys.cohort(copy.deepcopy(model).to("meta"), [Split(mine, mine, mine)])
    weights = {n: t.detach().unsqueeze(0) for n, t in model.state_dict().items()}
    return sparsity_vectors(cohort, weights, **how)[0]


def rectified(*biases: float, last: nn.Module | None = None) -> nn.Sequential:
    """Units x + bias of one input x, rectified, and two logits."""
    first = nn.Linear(1, len(biases)).double()
    with torch.no_grad():
        first.weight.fill_(1)
        first.bias.copy_(torch.tensor(biases, dtype=torch.float64))
    return nn.Sequential(first, last or nn.ReLU(), nn.Linear(len(biases), 2).double())


def test_hidden_units_are_counted_over_images():
    """Of inputs 1 to 8, unit k is off for those up to minus its bias."""
    x = torch.arange(1.0, 9.0, dtype=torch.float64)[:, None]
    assert reported(rectified(0, -2, -4, -8), x).tolist() == [0, 2 / 8, 4 / 8, 1]


def test_the_mask_of_a_convolution_made_by_hand():
    """Edges to the right: on at the one column where dark becomes light, off at the others."""
    convolution = nn.Conv2d(1, 2, (1, 2), bias=False).double()
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([[[[-1.0, 1.0]]], [[[1.0, -1.0]]]]))
    model = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(24, 2).double())
    image = torch.tensor([[0.0, 0, 1, 1, 1]] * 3, dtype=torch.float64).view(1, 1, 3, 5)
    assert reported(model, image).tolist() == [9 / 12, 1.0]


class Functional(nn.Module):
    """Rectifies its inputs, then calls a module that rectifies what is above 2."""

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.rectify = relu
        self.relu = nn.ReLU()
        self.head = nn.Linear(1, 2).double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.relu(self.rectify(inputs) - 2))


@pytest.mark.parametrize(
    "relu",
    [
        functional.relu,
        functional.relu6,
        torch.relu,
        lambda x: x.relu(),
        lambda x: (x + 0).relu_(),
        lambda x: functional.relu(x + 0, inplace=True),
        lambda x: x.clamp(min=0),
        lambda x: torch.clamp(x, 0),
        lambda x: torch.clip(x, 0, 6),
        lambda x: x.clamp_min(0.0),
        lambda x: functional.threshold(x, 0, 0),
    ],
)
def test_a_functional_relu_is_heard_in_its_order(relu):
    x = torch.tensor([[-1.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
    assert reported(Functional(relu), x).tolist() == [1 / 4]
    assert reported(Functional(relu), x, layer=1).tolist() == [3 / 4]
    assert reported(Functional(relu), x, layer="relu").tolist() == [3 / 4]
    assert num_channels(Functional(relu), (1,), layer=0) == 1


@pytest.mark.parametrize(
    "other",
    [torch.abs, lambda x: x.clamp(min=-1), lambda x: x.clamp(max=0), functional.leaky_relu,
     lambda x: functional.threshold(x, 0, -1), lambda x: functional.threshold(x, 1, 0)],
)  # fmt: skip
def test_other_functions_are_no_relu(other):
    x = torch.tensor([[-1.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
    assert reported(Functional(other), x, layer="first").shape == (1,)
    with pytest.raises(InputError, match="the network has 1 of them"):
        reported(Functional(other), x, layer=1)


def test_functions_are_named_by_the_module_that_calls_them():
    model = nn.Sequential(Functional(torch.relu), Functional(torch.tanh))
    model[1].head = nn.Linear(2, 2).double()
    seen = trace(model, lambda: model(torch.ones(2, 1, dtype=torch.float64)), 0.5)
    assert [a.path for a in seen] == ["0.relu()", "0.relu", "1.tanh()", "1.relu"]
    assert len(chosen(model, seen, "0")) == 2


def test_without_any_relu_a_network_is_refused_in_one_line():
    with pytest.raises(InputError, match="no ReLU on its way") as error:
        reported(rectified(0, last=nn.Tanh()), torch.ones(2, 1, dtype=torch.float64))
    assert "\n" not in str(error.value)


def test_the_threshold_itself_counts_as_on():
    x = torch.tensor([[-0.5], [-0.25], [0.0], [0.25], [0.5]], dtype=torch.float64)
    model = rectified(0, last=nn.Hardtanh())
    assert reported(model, x, epsilon=0.5).tolist() == [3 / 5]


def test_a_layer_used_twice_is_two_layers():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU()
            self.head = nn.Linear(1, 2).double()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.relu(self.relu(inputs) - 2))

    x = torch.tensor([[-1.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
    assert reported(Twice(), x, layer=0).tolist() == [1 / 4]
    assert reported(Twice(), x, layer=1).tolist() == [3 / 4]
    assert reported(Twice(), x, layer="relu").tolist() == [1 / 4, 3 / 4]


def test_a_relu_in_place_is_seen_before_it_is_written_over():
    model = rectified(-1, last=nn.Sequential(nn.ReLU(), nn.ReLU6(inplace=True)))
    x = torch.tensor([[0.0], [1.0], [2.0], [9.0]], dtype=torch.float64)
    assert reported(model, x, layer="1.0").tolist() == [1 / 2]


@pytest.mark.parametrize("layer", [7, "nowhere", "2"])
def test_a_layer_that_is_none_is_refused_in_one_line(layer):
    with pytest.raises(InputError, match="layer") as error:
        reported(rectified(0), torch.ones(2, 1, dtype=torch.float64), layer=layer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("channels", [[0, 0], [3], [-1], []])
def test_channels_that_are_none_are_refused(channels):
    with pytest.raises(InputError, match="channels"):
        reported(rectified(0, 1), torch.ones(2, 1, dtype=torch.float64), channels=channels)


def test_the_number_of_channels_is_known_without_computing():
    assert num_channels(toys.conv(), toys.SHAPE) == 3
    assert num_channels(toys.conv(), toys.SHAPE, layer=1) == 4


def test_clients_of_different_sizes_are_each_their_own_mean():
    """Stacked or alone, with as many images as each has."""
    model = toys.dense().double()
    splits = [toys.split(n, seed=n) for n in (3, 17, 8)]
    weights = {n: torch.stack([t] * 3) for n, t in toys.initial(model).items()}
    one_by_one = sparsity_vectors(toys.cohort(model, splits), weights, batch_size=4)
    stacked = sparsity_vectors(toys.cohort(model, splits, stacked=True), weights, batch_size=4)
    assert torch.equal(one_by_one, stacked)
    assert torch.equal(
        one_by_one * torch.tensor([[3.0], [17], [8]]),
        (one_by_one * torch.tensor([[3.0], [17], [8]])).round(),
    )


@pytest.mark.parametrize("room", [1, 5 * 16, 2**20])
@pytest.mark.parametrize("stacked", [False, True])
def test_one_model_of_all_clients_sees_their_images_together(monkeypatch, room, stacked):
    """As client by client: whosever images share a portion, and however large it is."""
    monkeypatch.setattr(activations, "ROOM", room)
    model = toys.conv().double()
    sizes = (3, 17, 8, 1, 5)
    splits = [toys.split(n, seed=n) for n in sizes]
    weights = toys.initial(model)
    alone = [
        sparsity_vectors(toys.cohort(model, [split]), repeat(weights, 1), batch_size=4)
        for split in splits
    ]
    cohort = toys.cohort(model, splits, stacked=stacked)
    together = sparsity_vectors(cohort, repeat(weights, len(sizes)))
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("stacked", [False, True])
def test_clients_with_models_of_their_own_are_measured_with_them(stacked):
    model = toys.dense().double()
    splits = [toys.split(n, seed=n) for n in (3, 17, 8)]
    models = [toys.initial(toys.dense().double()) for _ in splits]
    for i, one in enumerate(models):
        models[i] = {n: t + 0.1 * i for n, t in one.items()}
    alone = [
        sparsity_vectors(toys.cohort(model, [split]), repeat(one, 1))
        for split, one in zip(splits, models, strict=True)
    ]
    cohort = toys.cohort(model, splits, stacked=stacked)
    assert torch.equal(sparsity_vectors(cohort, stack(models)), torch.cat(alone))


def test_one_pass_for_all_clients(monkeypatch):
    passes = []
    splits = [toys.split(6, seed=n) for n in range(20)]
    model = toys.dense().double()
    cohort = toys.cohort(model, splits)
    zeros = activations._zeros
    monkeypatch.setattr(activations, "_zeros", lambda *a: passes.append(len(a[-1])) or zeros(*a))
    sparsity_vectors(cohort, repeat(toys.initial(model), 20))
    assert passes == [120]
