"""Anyone's network by ``module:factory``."""

import pytest
import torch

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.models.build import build_model
from fedadapt.models.limits import check_model
from fedadapt.models.listing import listing
from fedadapt.selectors import head

FACTORIES = """
import torch
from torch import nn

def tiny(*, num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, num_classes)
    ).double()

def shaped(image_shape, num_classes):
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, num_classes))

class Everything(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.head = nn.Conv2d(3, settings["num_classes"], settings["image_shape"][1])

    def forward(self, x):
        return self.head(x).flatten(1)

def positional(n):
    return nn.Linear(n, n)

def number(num_classes):
    return 3

def headless(num_classes):
    return nn.Sequential(nn.Conv2d(3, num_classes, 8), nn.Flatten())

def narrow(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes + 1))

def hungry(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(7, num_classes))

constant = 3
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "my_test_nets.py").write_text(FACTORIES)
    (tmp_path / "my_broken_nets.py").write_text("import a_package_that_is_nowhere")
    monkeypatch.syspath_prepend(tmp_path)


def built(function, **settings):
    return build_model(RunConfig(model=f"my_test_nets:{function}", **settings), (3, 8, 8), 4)


def refusal(model, **settings) -> str:
    with pytest.raises(InputError) as caught:
        build_model(RunConfig(model=model, **settings), (3, 8, 8), 4)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize("function", ["tiny", "shaped", "Everything"])
def test_a_factory_is_given_what_it_takes(function):
    model = built(function)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(getattr(m, "inplace", False) for m in model.modules())


@pytest.mark.usefixtures("nets")
def test_a_factorys_weights_depend_on_the_seed_alone():
    state = torch.get_rng_state()
    one, again, other = built("tiny", seed=1), built("tiny", seed=1), built("tiny", seed=2)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one[0].weight, again[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)


@pytest.mark.usefixtures("nets")
def test_the_head_is_named_or_the_last_linear_layer():
    assert head(built("tiny")) == {"3.weight", "3.bias"}
    assert head(built("Everything")) == {"head.weight", "head.bias"}


@pytest.mark.usefixtures("nets")
def test_trying_the_network_out_leaves_its_statistics_alone():
    model = built("shaped")
    assert model[1].num_batches_tracked == 0
    assert all(m.training for m in model.modules())


@pytest.mark.usefixtures("nets")
def test_a_factorys_batch_norm_is_looked_for_once_it_is_built():
    built("shaped", batch_norm="local")
    assert "batch-norm: local needs" in refusal("my_test_nets:tiny", batch_norm="local")


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("my_absent_nets:make", "there is no module 'my_absent_nets'"),
        ("my_broken_nets:make", "a_package_that_is_nowhere"),
        ("my_test_nets:absent", "cannot import my_test_nets:absent"),
        ("my_test_nets:constant", "is a int; it must be a function"),
        ("my_test_nets:positional", "TypeError"),
        ("my_test_nets:number", "returned a int"),
        ("my_test_nets:headless", "neither a layer 'head' nor an nn.Linear"),
        ("my_test_nets:narrow", "gives [2, 5] for 2 images of 4 classes"),
        ("my_test_nets:hungry", "fails on images of [3, 8, 8]"),
    ],
)
def test_what_is_wrong_with_a_factory_is_one_line(model, complaint):
    line = refusal(model)
    assert complaint in line
    assert line.startswith("model: ")


@pytest.mark.usefixtures("nets")
def test_a_package_adds_a_network_by_an_entry_point(tmp_path, monkeypatch):
    folder = tmp_path / "my_nets-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my-nets\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[fedadapt.models]\nsmall = my_test_nets:tiny\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = build_model(RunConfig(model="small"), (3, 8, 8), 4)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    assert ("small", "", "", "made by my_test_nets:tiny") in listing().rows
    with pytest.raises(InputError, match="did you mean 'small'"):
        check_model(RunConfig(model="smal"))
