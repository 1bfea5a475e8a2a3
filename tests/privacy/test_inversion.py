"""The attack on networks whose answers can be written down. float64 throughout."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fedadapt.client.statistics.sparsity import Activation
from fedadapt.datasets.benchmark import Scaling
from fedadapt.errors import InputError
from fedadapt.models.network import Network
from fedadapt.privacy.inversion import (
    PROPERTIES,
    hard_sparsity,
    invert,
    mid_grey,
    pixel_range,
    relative_error,
    relu_layers,
    relu_map,
    total_variation,
)

EVERYTHING = (torch.tensor(-10.0).double(), torch.tensor(10.0).double())
MAPS = torch.tensor([[[[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]]]).double()  # [1, 1, 2, 3]
IMAGES = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[0.5, 0.0], [2.0, 1.0]]]]).double()


def network() -> Network:
    """Three ReLUs: two with maps, the first of them used twice, and one of hidden units."""
    torch.manual_seed(0)
    relu = nn.ReLU()
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), relu, nn.Conv2d(4, 5, 3), relu, nn.Dropout(0.9),
        nn.Flatten(), nn.Linear(20, 6), nn.ReLU(),
    )  # fmt: skip
    return Network(body, 6, 3).double()


def descend(view, images, steps=600, start=None, **settings):
    start = torch.full_like(images, 0.3) if start is None else start
    settings = {"smoothness": 0.0} | settings
    return invert(view, view(images), start, EVERYTHING, steps=steps, **settings)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("fm", MAPS),
        ("h_sp", [[[3.0, 3.0]]]),
        ("v_sp", [[[1.0, 3.0, 2.0]]]),
        ("w_sp", [[6.0]]),
        ("sparsity", [[0.5]]),
    ],
)
def test_the_properties_of_a_small_map(name, wanted):
    assert_close(PROPERTIES[name](MAPS), torch.as_tensor(wanted, dtype=torch.float64))


def test_no_gradient_leads_back_from_the_hard_sparsity():
    """One that is not zero would be of a surrogate, and the comparison would be another."""
    model, images = network(), IMAGES.new_ones(1, 1, 4, 4).requires_grad_()
    for name, of in PROPERTIES.items():
        maps = model.body[1](model.body[0](images))
        value = of(maps).pow(2).sum() + 0 * images.sum()
        (gradient,) = torch.autograd.grad(value, images)
        assert bool(gradient.any()) == (name != "sparsity")


def test_the_hard_sparsity_stays_as_it_is_when_an_image_moves_a_little():
    """Its difference quotient is zero too: it is the function that is flat, not the tool."""
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = maps + 1e-9
    assert torch.equal(hard_sparsity(maps.relu()), hard_sparsity(moved.relu()))


def test_an_attack_on_the_hard_sparsity_ends_where_it_starts():
    start = torch.rand_like(IMAGES)
    found = descend(lambda x: hard_sparsity(x.relu()), IMAGES, steps=5, start=start)
    assert torch.equal(found, start)


def test_an_image_comes_back_from_a_feature_map_that_keeps_it():
    found = descend(lambda x: torch.cat([x.relu(), (-x).relu()], 1), IMAGES - 1)
    assert_close(found, IMAGES - 1, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("name", "dims"), [("h_sp", (3,)), ("v_sp", (2,)), ("w_sp", (2, 3))])
def test_of_a_sum_the_attack_finds_the_image_that_is_even_along_it(name, dims):
    """From an even start, every pixel of a sum has the same gradient: the projection is found."""
    found = descend(PROPERTIES[name], IMAGES)
    assert_close(found, IMAGES.mean(dims, keepdim=True).expand_as(IMAGES), atol=1e-3, rtol=0)


def test_smoothness_decides_what_the_property_leaves_open():
    start = torch.rand(IMAGES.shape, generator=torch.Generator().manual_seed(0)).double()
    rough = descend(PROPERTIES["w_sp"], IMAGES, start=start)
    smooth = descend(PROPERTIES["w_sp"], IMAGES, start=start, smoothness=1e-2)
    assert (total_variation(rough) > 0.01).all()
    assert (total_variation(smooth) < 1e-6).all()


def test_images_do_not_mix():
    model, images = network(), torch.rand(3, 1, 4, 4).double()
    layer = relu_layers(model, (1, 4, 4))[0]
    start = mid_grey((1, 4, 4), Scaling((0.5,), (0.5,)), seed=1).double()

    def found(some):
        view = lambda x: PROPERTIES["v_sp"](relu_map(model, layer, x))  # noqa: E731
        return descend(view, some, steps=30, start=start.expand(some.shape), smoothness=1e-4)

    together = found(images)
    for number in range(3):
        assert_close(together[number : number + 1], found(images[number : number + 1]))


def test_neither_start_nor_network_is_touched():
    model, images = network(), torch.rand(2, 1, 4, 4).double()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    start = torch.zeros_like(images)
    layer = relu_layers(model, (1, 4, 4))[0]
    descend(lambda x: relu_map(model, layer, x), images, steps=3, start=start)
    assert not start.any()
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(m.training and not m._forward_hooks for m in model.modules())


def test_pixels_stay_in_their_range():
    bounds = (torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double())
    found = invert(lambda x: x, IMAGES, torch.full_like(IMAGES, 0.5), bounds, steps=200)
    assert_close(found, IMAGES.clamp(0, 1), atol=1e-2, rtol=0)
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_error_is_relative_image_by_image_and_finite_for_a_silent_layer():
    wanted = torch.tensor([[3.0, 4.0], [0.0, 0.0], [30.0, 40.0]]).double()
    found = torch.tensor([[3.0, 3.0], [0.0, 2.0], [30.0, 30.0]]).double()
    assert_close(relative_error(found, wanted), torch.tensor([0.04, 4.0, 0.04]).double())


def test_total_variation_is_by_pixel():
    """Differences of IMAGES[0]: 2 and 2 down, 1 and 1 to the right, over four pixels."""
    assert total_variation(IMAGES)[0] == (4 + 4 + 1 + 1) / 4
    assert not total_variation(torch.ones(1, 3, 1, 1)).any()


def test_a_layers_map_is_what_the_layer_gives_when_the_network_runs():
    model, images = network().eval(), torch.rand(2, 1, 4, 4).double()
    first = model.body[0](images).relu()
    second = model.body[2](first).relu()
    layers = relu_layers(model, (1, 4, 4))
    assert {n: (a.path, a.call) for n, a in layers.items()} == {0: ("body.1", 0), 1: ("body.1", 1)}
    assert torch.equal(relu_map(model, layers[0], images), first)
    assert torch.equal(relu_map(model, layers[1], images), second)


def test_what_comes_after_a_layer_is_not_computed():
    model = network()
    model.head.register_forward_hook(lambda *_: pytest.fail("the head ran"))
    relu_map(model, Activation("body.1", 0, 4, 16), torch.rand(1, 1, 4, 4).double())


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [((1, 0), [1, 0]), (("body.1",), [0, 1]), (("first",), [0]), ((), [0, 1])],
)
def test_layers_are_named_or_numbered(wanted, numbers):
    assert list(relu_layers(network(), (1, 4, 4), wanted)) == numbers


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ((3,), "layers: layer 3; the network has 3 of them, 0 to 2"),
        ((-1,), "layers: layer -1; the network has 3 of them, 0 to 2"),
        (("bodi.1",), "layers: unknown 'bodi.1'; did you mean 'body.1'?"),
        ((2,), r"layers: 2 \(body.7\) has hidden units and no map; those with maps are 0, 1"),
    ],
)
def test_a_layer_that_cannot_be_attacked_is_one_line(wanted, line):
    with pytest.raises(InputError, match=f"^{line}"):
        relu_layers(network(), (1, 4, 4), wanted)


def test_a_network_without_maps_is_one_line():
    units = Network(nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU()), 5, 3).double()
    with pytest.raises(InputError, match=r"^model: no ReLU of this network has maps"):
        relu_layers(units, (1, 4, 4))


def test_the_start_is_mid_grey_with_a_little_noise_and_a_function_of_the_seed():
    scaling = Scaling((0.4, 0.5, 0.6), (0.2, 0.5, 0.1))
    start = mid_grey((3, 64, 64), scaling, seed=1)
    assert torch.equal(start, mid_grey((3, 64, 64), scaling, seed=1))
    assert not torch.equal(start, mid_grey((3, 64, 64), scaling, seed=2))
    assert_close(start.mean((1, 2)), torch.tensor([0.5, 0.0, -1.0]), atol=0.01, rtol=0)
    assert_close(start.std((1, 2)), torch.full((3,), 0.1), atol=0.005, rtol=0)


def test_the_range_is_black_and_white_as_the_network_sees_them():
    black, white = pixel_range(2, Scaling((0.5, 0.25), (0.5, 0.25)))
    assert black.flatten().tolist() == [-1.0, -1.0]
    assert white.flatten().tolist() == [1.0, 3.0]
