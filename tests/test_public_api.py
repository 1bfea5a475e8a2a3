"""What the package offers: there, described, cheap to import; and each piece works alone."""

import copy
import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

import fedadapt
import fedadapt.client
import fedadapt.server
from fedadapt.errors import InputError

PACKAGES = ["fedadapt"] + [
    f"fedadapt.{name}"
    for name in ("models", "datasets", "client", "server", "strategies", "simulations")
]
MODULES = sorted(m.name for m in pkgutil.walk_packages(fedadapt.__path__, "fedadapt."))
IMPORTABLE = [name for name in MODULES if not name.endswith("__main__")]


@pytest.mark.parametrize("name", PACKAGES)
def test_public_names_are_there_and_described(name):
    package = importlib.import_module(name)
    assert package.__doc__
    names = getattr(package, "__all__", [])
    assert len(set(names)) == len(names)
    for public in names:
        found = getattr(package, public)
        assert public == "__version__" or inspect.getdoc(found), public


def test_every_module_says_what_it_is():
    silent = []
    for name in IMPORTABLE:
        lines = (importlib.import_module(name).__doc__ or "").strip().splitlines()
        if not lines or len(lines[0]) <= 10:
            silent.append(name)
    assert silent == []


def test_examples_in_docstrings_are_true():
    modules = [importlib.import_module(name) for name in IMPORTABLE]
    with_examples = [m for m in modules if ">>>" in Path(m.__file__ or "").read_text("utf-8")]
    assert with_examples
    assert [m.__name__ for m in with_examples if doctest.testmod(m).failed] == []


def test_importing_the_package_loads_neither_torch_nor_flower():
    light = "import sys, fedadapt.cli, fedadapt.client.adaptations.registry, fedadapt.records;"
    heavy = {"torch", "flwr", "ray", "sklearn", "matplotlib"}
    other = tiny.python("-c", f"{light} print({heavy!r} & sys.modules.keys())")
    assert other.communicate(timeout=60) == ("set()\n", "")


@pytest.mark.slow
def test_a_client_needs_neither_ray_nor_what_draws_pictures():
    """The ClientApp and all it loads, with what only a simulation installs made unimportable."""
    absent = ("ray", "datasets", "flwr_datasets", "pyarrow", "matplotlib", "jinja2", "cv2")
    program = (
        f"import sys; sys.modules |= dict.fromkeys({absent!r}); import fedadapt.flower.client_app"
    )
    other = tiny.python("-c", program)
    _, trouble = other.communicate(timeout=100)
    assert (other.returncode, trouble) == (0, "")


# One piece alone: modules and tensors in and out, the arguments left as they were

METHODS = ["none", "adabn", "adabn-s", "fine-tune", "kd", "ewc"]


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2))
    return nn.Sequential(*layers).double()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(41, 1, 8, 8, dtype=torch.float64) * 3 + 1


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.arange(41) % 2


def hyper(method: str) -> dict[str, int]:
    return {"epochs": 2} if method in ("adabn-s", "fine-tune", "kd", "ewc") else {}


@pytest.mark.parametrize("method", METHODS)
def test_adapting_leaves_its_arguments_as_they_were(net, images, labels, method):
    net.eval()
    before = copy.deepcopy(net.state_dict())
    pixels = images.clone()
    adapted = fedadapt.client.adapt(net, images, labels, method=method, **hyper(method))
    assert not net.training
    assert all(torch.equal(before[n], t) for n, t in net.state_dict().items())
    assert torch.equal(images, pixels)
    changed = {n for n, t in adapted.state_dict().items() if not torch.equal(before[n], t)}
    assert bool(changed) == (method != "none")


@pytest.mark.parametrize("method", ["adabn-s", "fine-tune", "kd", "ewc"])
def test_adapting_is_a_matter_of_its_seed_alone(net, images, labels, method):
    """Not of what else was drawn in the process; nor does it draw from what others use."""

    def adapted(seed: int) -> dict[str, torch.Tensor]:
        torch.rand(seed + 3)
        before = torch.get_rng_state()
        given = {"method": method, "seed": seed, "batch_size": 8, **hyper(method)}
        found = fedadapt.client.adapt(net, images, labels, **given)
        assert torch.equal(torch.get_rng_state(), before)
        return found.state_dict()

    assert tiny.same_bits(adapted(1), adapted(1))
    assert not tiny.same_bits(adapted(1), adapted(2))


@pytest.mark.parametrize("method", METHODS)
def test_an_adapted_network_is_one_s_own_and_as_it_was_set_up(net, images, labels, method):
    """Its mode and its frozen weights are the model's; changing it changes nothing else."""
    net.eval()
    net[0].weight.requires_grad_(False)
    adapted = fedadapt.client.adapt(net, images, labels, method=method, **hyper(method))
    assert not adapted.training
    frozen = {n: not p.requires_grad for n, p in net.named_parameters()}
    assert {n: not p.requires_grad for n, p in adapted.named_parameters()} == frozen
    before = copy.deepcopy(net.state_dict())
    for tensor in adapted.state_dict().values():
        tensor.add_(1)
    assert tiny.same_bits(net.state_dict(), before)


@pytest.mark.parametrize("method", ["fine-tune", "kd", "ewc"])
def test_learning_from_labels_fits_them(net, images, labels, method):
    def loss(model) -> float:
        with torch.no_grad():
            return nn.functional.cross_entropy(model.eval()(images), labels).item()

    images[labels == 1] += 1
    start = fedadapt.client.adapt(net, images, method="adabn")  # or its statistics would change
    adapted = fedadapt.client.adapt(start, images, labels, method=method, epochs=10, lr=0.01)
    assert loss(adapted) < loss(start) - 0.02


@pytest.mark.parametrize("count", [0, 40])
def test_images_and_labels_are_as_many(net, images, labels, count):
    with pytest.raises(InputError, match=rf"adapt: {count} images and 41 labels; one label an ima"):
        fedadapt.client.adapt(net, images[:count], labels, method="fine-tune")
    with pytest.raises(InputError, match="adapt: 0 images and 0 labels"):
        fedadapt.client.adapt(net, images[:0])


def test_adabn_has_the_statistics_of_the_images(net, images):
    adapted = fedadapt.client.adapt(net, images, method="adabn", batch_size=7)
    seen = net[0](images)
    torch.testing.assert_close(adapted[1].running_mean, seen.mean((0, 2, 3)))
    torch.testing.assert_close(adapted[1].running_var, seen.var((0, 2, 3), unbiased=False))


def test_fine_tuning_the_head_moves_the_head(net, images, labels):
    given = {"epochs": 1, "trainable": "head"}
    adapted = fedadapt.client.adapt(net, images, labels, method="fine-tune", **given)
    before = dict(net.named_parameters())
    moved = {n for n, p in adapted.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"4.weight", "4.bias"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"method": "fine-tune"}, "learns from labels"),
        ({"method": "adabm"}, "unknown 'adabm'; did you mean 'adabn'?"),
        ({"method": "adabn", "epochs": 2}, "adabn has no argument 'epochs'"),
        ({"method": "adabn", "batch_size": 0}, "it must be >= 1"),
    ],
)
def test_what_cannot_be_is_one_line(net, images, arguments, line):
    with pytest.raises(InputError) as error:
        fedadapt.client.adapt(net, images, **arguments)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_adabn_needs_batch_norm(images):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
    with pytest.raises(InputError, match="needs a network with batch normalisation"):
        fedadapt.client.adapt(plain, images)


def test_the_weighted_mean_of_modules(net):
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(4)
    other[1].num_batches_tracked += 9
    mean = fedadapt.server.weighted_mean([net.state_dict(), other.state_dict()], [3, 1])
    torch.testing.assert_close(mean["4.bias"], net[4].bias.detach() + 1)
    assert mean["1.num_batches_tracked"] == net[1].num_batches_tracked  # a count has no mean


def test_the_mean_leaves_its_arguments_alone_and_does_not_share_with_them(net):
    state = net.state_dict()
    before = copy.deepcopy(state)
    mean = fedadapt.server.weighted_mean([state, state], [2, 5])
    assert tiny.same_bits(mean, before)
    for tensor in mean.values():
        tensor.add_(1)
    assert tiny.same_bits(dict(state), before)


@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [1, 0], [1, -1], [1, float("nan")],
                                     [1, float("inf")]])  # fmt: skip
def test_a_mean_needs_a_positive_weight_for_each(net, weights):
    with pytest.raises(ValueError, match=r"one weight a state|finite and > 0"):
        fedadapt.server.weighted_mean([net.state_dict()] * 2, weights)


def test_states_of_different_networks_have_no_mean(net):
    with pytest.raises(ValueError, match="differ in names or shapes"):
        fedadapt.server.weighted_mean([net.state_dict(), nn.Linear(2, 2).state_dict()], [1, 1])


# Importances

MEASURED = [
    ("mas", False, "sample"),
    ("mas", True, "batch"),
    ("fisher", True, "sample"),
    ("fisher", True, "batch"),
    ("fisher", False, "sample"),
    ("fisher", False, "batch"),
]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("kind", "labelled", "granularity"), MEASURED)
def test_measuring_importance_leaves_all_as_it_was(
    net, images, labels, training, kind, labelled, granularity
):
    """Statistics, modes, gradients, what others draw from; it finds the same in either mode."""
    net.train(training)
    net[2].train(not training)
    modes = [module.training for module in net.modules()]
    before = copy.deepcopy(net.state_dict())
    pixels, numbers, random = images.clone(), labels.clone(), torch.get_rng_state()
    given = {"kind": kind, "granularity": granularity}
    found = fedadapt.client.importance(net, images, labels if labelled else None, **given)
    assert [module.training for module in net.modules()] == modes
    assert tiny.same_bits(dict(net.state_dict()), before)
    assert torch.equal(images, pixels)
    assert torch.equal(labels, numbers)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    other = fedadapt.client.importance(net.eval(), images, labels if labelled else None, **given)
    assert tiny.same_bits(found, other)


def test_importances_are_of_the_parameters_in_their_shape_and_type(net, images):
    found = fedadapt.client.importance(net, images)
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {
        n: (p.shape, torch.float64) for n, p in net.named_parameters()
    }
    assert all((t >= 0).all() and t.any() and not t.requires_grad for t in found.values())
    body = fedadapt.client.importance(net, images, exclude=["4"])
    assert body.keys() == {n for n in found if not n.startswith("4.")}
    single = fedadapt.client.importance(net.float(), images.float())
    assert {t.dtype for t in single.values()} == {torch.float32}


def test_importances_of_colour_images_are_sums_over_images(images):
    """Of a mean over images the parts are images alone; in training mode they would mix."""
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2))
    colour = nn.Sequential(*layers).double().train()
    rgb = images[:6].repeat(1, 3, 1, 1) * torch.rand(6, 3, 8, 8, dtype=torch.float64)
    whole = fedadapt.client.importance(colour, rgb)
    alone = [fedadapt.client.importance(colour, rgb[i : i + 1]) for i in range(6)]
    for n, t in whole.items():
        torch.testing.assert_close(t, torch.stack([one[n] for one in alone]).mean(0))


def test_only_given_labels_are_looked_at(net, images, labels):
    def measured(given, kind):
        return fedadapt.client.importance(net, images, given, kind=kind)

    assert tiny.same_bits(measured(labels, "mas"), measured(None, "mas"))
    assert not tiny.same_bits(measured(labels, "fisher"), measured(1 - labels, "fisher"))
    assert not tiny.same_bits(measured(0 * labels, "fisher"), measured(None, "fisher"))


def test_importances_by_batch_depend_on_its_size_and_by_sample_do_not(net, images):
    def measured(granularity: str, size: int) -> dict[str, torch.Tensor]:
        given = {"granularity": granularity, "batch_size": size}
        return fedadapt.client.importance(net, images, **given)

    each = measured("sample", 20)
    assert tiny.same_bits(measured("sample", 7), each)
    torch.testing.assert_close(measured("batch", 1), each)
    few, all_at_once = measured("batch", 7), measured("batch", 41)
    assert not torch.isclose(few["0.weight"], each["0.weight"]).all()
    assert not torch.isclose(few["0.weight"], all_at_once["0.weight"]).all()


@pytest.mark.parametrize("granularity", ["sample", "batch"])
def test_draws_are_a_matter_of_the_generator_alone(net, images, granularity):
    def measured(seed: int | None) -> dict[str, torch.Tensor]:
        torch.rand(3)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        given = {"kind": "fisher", "granularity": granularity, "generator": generator}
        return fedadapt.client.importance(net, images, **given)

    assert tiny.same_bits(measured(None), measured(None))
    assert tiny.same_bits(measured(1), measured(1))
    assert not tiny.same_bits(measured(1), measured(2))


def test_one_generator_draws_anew_for_every_call(net, images):
    generator = torch.Generator().manual_seed(1)
    given = {"kind": "fisher", "generator": generator}
    first, second = (fedadapt.client.importance(net, images, **given) for _ in range(2))
    assert not tiny.same_bits(first, second)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"kind": "mass"}, "importance: kind: unknown 'mass'; did you mean 'mas'?"),
        ({"kind": "true-fisher"}, "importance: kind: unknown 'true-fisher'"),
        ({"granularity": "epoch"}, "importance: granularity: unknown 'epoch'; known: sample, b"),
        ({"batch_size": 0}, "importance: batch-size: 0 is out of range; it must be >= 1"),
        ({"images": 0}, "importance: 0 images and 0 labels; one label an image"),
        ({"labels": torch.zeros(40)}, "importance: 41 images and 40 labels; one label an image"),
        ({"exclude": ["5"]}, "importance: exclude: the network has no '5'"),
        ({"exclude": "4.weigth"}, "no '4.weigth'; did you mean '4.weight'?"),
        ({"exclude": ["0", "1", "4"]}, "importance: exclude leaves no parameter"),
    ],
)
def test_importances_that_cannot_be_are_one_line(net, images, arguments, line):
    given = dict(arguments)
    some = images[: given.pop("images", len(images))]
    with pytest.raises(InputError) as error:
        fedadapt.client.importance(net, some, **given)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_two_networks_are_merged_by_what_they_are_worth_to_a_client(net, images):
    """Modules and images in, a module out; where only one has a say, it is that one."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other[1].running_mean += 1
    models = [net.state_dict(), other.state_dict()]
    first, second = (fedadapt.client.importance(m, images, exclude="4") for m in (net, other))
    merged = copy.deepcopy(net)
    merged.load_state_dict(fedadapt.server.mode_merge(models, [first, second]))
    for n in first:
        low, high = models[0][n], models[1][n]
        assert ((merged.state_dict()[n] >= low) & (merged.state_dict()[n] <= high)).all()
    for n in ("4.weight", "4.bias", "1.running_mean"):
        assert torch.equal(merged.state_dict()[n], models[1][n])
    nothing = {n: torch.zeros_like(t) for n, t in second.items()}
    alone = fedadapt.server.mode_merge(models, [{n: t + 1 for n, t in first.items()}, nothing])
    assert all(torch.equal(alone[n], models[0][n]) for n in first)
