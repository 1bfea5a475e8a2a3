"""What every network promises: shapes, counts, seeds, and to be computed stacked."""

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.models.build import build_model
from fedadapt.models.networks.alexnet import alexnet
from fedadapt.models.networks.mobilenetv2 import mobilenetv2
from fedadapt.models.networks.vgg import vgg11_bn_fc, vgg11_fc
from fedadapt.models.norms import batch_norms, has_batch_norm
from fedadapt.models.registry import (
    ENTRIES,
    IMAGES,
    TOKENS,
    USUAL_VOCABULARY,
    find_network,
)
from fedadapt.registry import import_named
from fedadapt.weights import stack

EVERY = [entry.name for entry in ENTRIES]
NAMES = [entry.name for entry in ENTRIES if IMAGES in entry.takes]
RUNNABLE = [name for name in NAMES if name != "mobilenetv2-1.0"]  # as the others, only slower


OF_ONE_SIZE = (
    "mlp",
    "lenet",
    "cnn",
    "vit-tiny",
    "vit-tiny-prompts",
)  # the image size is in their shapes
NARROW = {"alexnet": alexnet, "vgg11-fc": vgg11_fc, "vgg11-bn-fc": vgg11_bn_fc}


def small(name: str, shape: tuple[int, int, int], num_classes: int = 3) -> nn.Module:
    """The network with real weights; fully connected layers, where there are, of 8 only."""
    torch.manual_seed(0)
    if name in NARROW:
        return NARROW[name](shape, num_classes, hidden=8)
    entry = find_network(name)
    factory = import_named("model", name, entry.factory)  # which does not check the size
    return factory(shape, num_classes, **entry.arguments)


def smallest_shape(name: str, channels: int = 3) -> tuple[int, int, int]:
    size = max(8, find_network(name).min_size)
    return channels, size, size


def on_meta(name: str, shape: tuple[int, int, int], num_classes: int = 10) -> nn.Module:
    with torch.device("meta"):
        return build_model(RunConfig(model=name), shape, num_classes)


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("entry", ENTRIES, ids=EVERY)
def test_the_catalogue_tells_the_truth(entry):
    vocabulary = USUAL_VOCABULARY if TOKENS in entry.takes else 0
    with torch.device("meta"):
        model = build_model(RunConfig(model=entry.name), entry.usual_shape, 10, vocabulary)
    assert num_parameters(model) == entry.num_parameters
    assert has_batch_norm(model) == entry.batch_norm


def test_vgg11_has_the_papers_size():
    model = on_meta("vgg11", (3, 32, 32), 65)
    assert num_parameters(model.body) == 9_225_984
    assert num_parameters(model) == 9_259_329
    assert sum(p.numel() for bn in batch_norms(model).values() for p in bn.parameters()) == 5_504
    relus = [i for i, m in enumerate(model.body.features) if isinstance(m, nn.ReLU)]
    assert relus == [2, 6, 10, 13, 17, 20, 24, 27]


def test_mobilenetv2_of_a_quarter_has_the_papers_size():
    model = on_meta("mobilenetv2-0.25", (3, 32, 32), 65)
    features = model.body.features
    assert num_parameters(features[:-1]) == 133_152
    assert num_parameters(model) == 321_377
    assert features[0][0].out_channels == 8
    widths = [block.conv[-1].num_features for block in features[1:-1]]
    assert widths == [8] * 6 + [16] * 4 + [24] * 3 + [40] * 3 + [80]
    relus = [m for m in features[2].modules() if isinstance(m, nn.ReLU6)]
    assert len(relus) == 2  # the 96 channels of which PFA measures sparsity


TORCHVISION = {
    "vgg11": torchvision.models.vgg11_bn,
    "mobilenetv2-0.25": lambda: torchvision.models.mobilenet_v2(width_mult=0.25),
    "mobilenetv2-0.35": lambda: torchvision.models.mobilenet_v2(width_mult=0.35),
    "mobilenetv2-1.4": lambda: torchvision.models.mobilenet_v2(width_mult=1.4),
    "squeezenet1_1": torchvision.models.squeezenet1_1,
    "alexnet": torchvision.models.alexnet,
    "vgg11-fc": torchvision.models.vgg11,
    "vgg11-bn-fc": torchvision.models.vgg11_bn,
    "resnet18": torchvision.models.resnet18,
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_body_has_torchvisions_names_and_shapes(name):
    with torch.device("meta"):
        theirs = {n: t.shape for n, t in TORCHVISION[name]().state_dict().items()}
    ours = {n: t.shape for n, t in on_meta(name, (3, 224, 224)).body.state_dict().items()}
    assert ours.items() <= theirs.items()
    left = {n.split(".")[0] for n in theirs.keys() - ours.keys()}
    assert left <= {"classifier", "fc"}


def disturb(model: nn.Module) -> nn.Module:
    """Batch norm other than the identity, so that a misplaced layer shows."""
    for layer in batch_norms(model).values():
        for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(
    "name", ["vgg11", "mobilenetv2-0.25", "mobilenetv2-1.4", "squeezenet1_1", "alexnet"]
)
@torch.no_grad()
def test_the_features_are_torchvisions(name):
    if name == "vgg11":
        theirs = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], True)
    elif name == "alexnet":
        with torch.device("meta"):
            theirs = torchvision.models.alexnet().features
        theirs = theirs.to_empty(device="cpu")
        for p in theirs.parameters():
            nn.init.normal_(p, std=0.05)
    else:
        theirs = TORCHVISION[name]().features
    disturb(theirs)
    ours = small(name, (3, 64, 64)).body.features.eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 64, 64)
    assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_resnet18_computes_what_torchvisions_does():
    theirs = disturb(torchvision.models.resnet18())
    theirs.fc = nn.Identity()
    ours = small("resnet18", (3, 40, 40)).body.eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 40, 40)
    assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["alexnet", "vgg11-fc", "vgg11-bn-fc"])
def test_the_fully_connected_nets_have_torchvisions_layers_in_order(name):
    def leaves(model):
        return [type(m).__name__ for m in model.modules() if not list(m.children())]

    with torch.device("meta"):
        theirs = leaves(TORCHVISION[name]())
    ours = leaves(on_meta(name, (3, 224, 224)))
    assert [layer for layer in ours if layer != "Flatten"] == theirs


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_logits_have_a_row_an_image_or_the_images_are_refused(name, channels):
    of_any_size = small(name, (channels, 64, 64), 7)
    for height, width in ((8, 8), (28, 28), (32, 40), (64, 63)):
        shape = (channels, height, width)
        if min(height, width) < find_network(name).min_size:
            with pytest.raises(InputError, match="image-size="):
                build_model(RunConfig(model=name), shape, 7)
            continue
        model = small(name, shape, 7) if name in OF_ONE_SIZE else of_any_size
        features = model.body(torch.zeros(2, *shape))
        assert features.shape == (2, model.head.in_features)
        assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", ["mlp", "lenet", "cnn", "mobilenetv2-0.25", "resnet18"])
def test_the_built_in_digits_fit(name):
    assert small(name, (1, 8, 8))(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("name", RUNNABLE)
@torch.no_grad()
def test_the_minimum_size_is_the_minimum(name):
    least = find_network(name).min_size
    fixed = name in OF_ONE_SIZE

    def run(size):
        model = small(name, (3, size, size)) if fixed else of_any_size
        return model(torch.zeros(2, 3, size, size))

    of_any_size = small(name, (3, 64, 64))
    for size in range(least, least + (16 if fixed else 3)):
        assert run(size).shape == (2, 3)
    if least > 1:
        with pytest.raises((RuntimeError, UserWarning)):  # zero-sized layers warn
            run(least - 1)


def test_too_small_images_are_one_line_with_the_remedy():
    with pytest.raises(InputError) as caught:
        build_model(RunConfig(model="vgg11"), (1, 28, 28), 10)
    assert str(caught.value) == (
        "model: 'vgg11' needs images of at least 32 x 32 pixels, these have 28 x 28; "
        "resize them with image-size=32"
    )


@pytest.mark.parametrize("name", ["mlp", "cnn", "mobilenetv2-0.25"])
def test_weights_depend_on_the_seed_alone(name):
    def weights(seed):
        return build_model(RunConfig(model=name, seed=seed), (1, 8, 8), 3).state_dict()

    torch.manual_seed(5)
    first = weights(1)
    torch.manual_seed(6)
    before = torch.get_rng_state()
    again = weights(1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[n], again[n]) for n in first)
    other = weights(2)
    drawn = [n for n, t in first.items() if t.dim() > 1]
    assert drawn
    assert not any(torch.equal(first[n], other[n]) for n in drawn)


def test_a_model_starts_on_the_cpu_in_float32_and_training():
    model = build_model(RunConfig(model="mobilenetv2-0.25"), (3, 8, 8), 3)
    assert {t.device.type for t in model.state_dict().values()} == {"cpu"}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("name", ["vgg11", "mobilenetv2-0.35", "resnet18"])
def test_convolutions_start_with_hes_deviation_by_fan_out(name):
    for layer in small(name, (3, 32, 32)).modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 4000:
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
            assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize("name", NAMES)
def test_no_layer_overwrites_its_input(name):
    model = on_meta(name, smallest_shape(name))
    assert not any(getattr(m, "inplace", False) for m in model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_a_network_can_be_traced(name):
    torch.fx.symbolic_trace(on_meta(name, smallest_shape(name)))


@pytest.mark.parametrize("name", RUNNABLE)
def test_stacked_gradients_are_those_of_one_client_after_the_other(name):
    shape = smallest_shape(name)
    model = small(name, shape).eval()  # dropout off; batch norm by its running statistics
    names = [n for n, _ in model.named_parameters()]
    one = {n: t.detach().clone() for n, t in model.state_dict().items()}
    two = {n: t * 1.1 if t.is_floating_point() else t for n, t in one.items()}
    images, labels = torch.randn(2, 2, *shape), torch.tensor([[0, 1], [2, 0]])
    skeleton = copy.deepcopy(model).to("meta")  # a forgotten name would crash

    def loss(params, buffers, images, labels):
        return cross_entropy(functional_call(skeleton, {**params, **buffers}, (images,)), labels)

    def split(weights):
        params = {n: weights[n] for n in names}
        return params, {n: t for n, t in weights.items() if n not in params}

    stacked = vmap(grad(loss))(*split(stack([one, two])), images, labels)
    for client, weights in enumerate((one, two)):
        alone = grad(loss)(*split(weights), images[client], labels[client])
        for n in names:
            assert_close(stacked[n][client], alone[n], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", RUNNABLE)
def test_training_mode_runs_stacked_and_returns_new_statistics(name):
    shape = smallest_shape(name)
    model = small(name, shape)
    weights = stack([model.state_dict()] * 2)
    skeleton = copy.deepcopy(model).to("meta")
    assert all(m.training for m in skeleton.modules())

    def logits(weights, images):
        held = {n: t.clone() for n, t in weights.items()}
        return functional_call(skeleton, held, (images,)), held

    out, after = vmap(logits, randomness="different")(weights, torch.randn(2, 3, *shape))
    assert out.shape == (2, 3, 3)
    for path in batch_norms(model):
        assert not torch.equal(after[f"{path}.running_mean"], weights[f"{path}.running_mean"])
        assert after[f"{path}.num_batches_tracked"].tolist() == [1, 1]


def test_gradients_of_single_images_come_from_vmap_over_the_images():
    model = small("mobilenetv2-0.25", (3, 8, 8)).eval()
    params = {n: p.detach() for n, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(params, image, label):
        out = functional_call(model, {**params, **buffers}, (image.unsqueeze(0),))
        return cross_entropy(out, label.unsqueeze(0))

    images, labels = torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2])
    single = vmap(grad(loss), (None, 0, 0))(params, images, labels)
    cross_entropy(model(images), labels).backward()
    for n, p in model.named_parameters():
        assert_close(single[n].mean(0), p.grad, rtol=1e-3, atol=1e-5)


def test_the_width_with_tensorflows_weights_has_its_epsilon():
    epsilons = {
        width: {bn.eps for bn in batch_norms(mobilenetv2((3, 8, 8), 2, width=width)).values()}
        for width in (0.25, 0.35)
    }
    assert epsilons == {0.25: {1e-5}, 0.35: {1e-3}}
