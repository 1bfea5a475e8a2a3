"""Initial weights: every tensor is accounted for, and what does not fit is refused."""

from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.models.build import build_model
from fedadapt.models.initial import load_weights, read_weights
from fedadapt.models.networks.mobilenetv2 import torchvision_names

RGB = (3, 8, 8)


def mobile(**settings) -> nn.Module:
    return build_model(RunConfig(model="mobilenetv2-0.25", **settings), RGB, 3)


def refusal(path, state, model="mobilenetv2-0.25", shape=RGB) -> str:
    torch.save(state, path)
    with pytest.raises(InputError) as caught:
        build_model(RunConfig(model=model, weights=str(path)), shape, 3)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_saved_model_comes_back(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    state = mobile(seed=3).state_dict()
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    again = mobile(seed=4, weights=str(path)).state_dict()
    assert all(torch.equal(again[n], state[n]) for n in state)


def test_torchvisions_names_land_in_the_body_and_its_classifier_is_left_out():
    theirs = torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=11).state_dict()
    model = mobile()
    before = {n: t.clone() for n, t in model.head.state_dict().items()}
    found = load_weights(model, theirs, "x.pth")
    own = model.state_dict()
    assert all(torch.equal(own[f"body.{n}"], t) for n, t in theirs.items() if "features" in n)
    assert all(torch.equal(model.head.state_dict()[n], t) for n, t in before.items())
    assert found.left_out == ("classifier.1.weight", "classifier.1.bias")
    assert found.initial == ("head.weight", "head.bias")
    assert set(found.loaded) | set(found.initial) == set(own)
    assert str(found).startswith(f"x.pth: {len(own) - 2} of {len(own)} tensors loaded")


def test_the_body_may_be_loaded_in_part_and_the_rest_keeps_its_seed(tmp_path, caplog):
    path = tmp_path / "stem.pth"
    stem = {"features.0.0.weight": torch.full((8, 3, 3, 3), 0.5)}
    torch.save(stem, path)
    with caplog.at_level("INFO", "fedadapt"):
        model = mobile(weights=str(path))
    fresh = mobile().state_dict()
    for name, tensor in model.state_dict().items():
        expected = stem["features.0.0.weight"] if "features.0.0." in name else fresh[name]
        assert torch.equal(tensor, expected)
    assert "1 of" in caplog.text


def test_the_paper_authors_flat_names_are_understood():
    """Names as PFA's implementation has them, written down here independently of our renaming."""
    names = ["features.0.0", "features.0.1"]
    for block in range(1, 18):
        layers = (0, 1, 3, 4) if block == 1 else (0, 1, 3, 4, 6, 7)
        names += [f"features.{block}.conv.{layer}" for layer in layers]
    names += ["conv.0", "conv.1"]
    model = torchvision.models.mobilenet_v2(width_mult=0.25)
    layers = [m for m in model.features.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    flat = {
        f"{name}.{n}": t
        for name, m in zip(names, layers, strict=True)
        for n, t in m.state_dict().items()
    }
    expected = model.features.state_dict(prefix="features.")
    renamed = torchvision_names(flat)
    assert renamed.keys() == expected.keys()
    assert all(renamed[n] is expected[n] or torch.equal(renamed[n], expected[n]) for n in expected)
    found = load_weights(mobile(), {**renamed, "classifier.weight": torch.ones(1)}, "x.pth")
    assert found.initial == ("head.weight", "head.bias")


@torch.no_grad()
def test_a_grey_network_answers_as_the_rgb_one_does_to_repeated_grey(tmp_path):
    path = tmp_path / "rgb.pth"
    rgb = build_model(RunConfig(model="lenet", seed=2), RGB, 3)
    torch.save(rgb.state_dict(), path)
    grey = build_model(RunConfig(model="lenet", weights=str(path)), (1, 8, 8), 3)
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(grey(images), rgb(images.expand(-1, 3, -1, -1)))


def test_only_the_filters_that_see_the_image_are_summed():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"'1.weight' has shape \[2, 3, 1, 1\]"):
        load_weights(model, {"1.weight": torch.ones(2, 3, 1, 1)}, "x.pth")


def test_an_unknown_tensor_is_named(tmp_path):
    line = refusal(tmp_path / "x.pth", {"features.99.weight": torch.ones(1)})
    assert "'features.99.weight'" in line
    assert "'features.0.0.weight'" in line


def test_another_shape_is_named_with_both(tmp_path):
    line = refusal(tmp_path / "x.pth", {"features.0.0.weight": torch.ones(16, 3, 3, 3)})
    assert "'features.0.0.weight' has shape [16, 3, 3, 3], the model needs [8, 3, 3, 3]" in line


def test_another_type_is_refused(tmp_path):
    state = {"features.0.0.weight": torch.ones(8, 3, 3, 3, dtype=torch.int64)}
    assert "torch.int64" in refusal(tmp_path / "x.pth", state)


def test_non_finite_values_are_refused(tmp_path):
    state = {"features.0.0.weight": torch.full((8, 3, 3, 3), float("nan"))}
    assert "not finite" in refusal(tmp_path / "x.pth", state)


def test_a_file_without_any_tensor_of_the_model_is_refused(tmp_path):
    assert "no tensor" in refusal(tmp_path / "x.pth", {"fc.weight": torch.ones(1)})
    assert "no tensor" in refusal(tmp_path / "x.pth", {})


def test_half_a_head_is_refused(tmp_path):
    assert "'head.bias'" in refusal(tmp_path / "x.pth", {"head.weight": torch.ones(3, 1280)})


def test_the_same_tensor_twice_is_refused(tmp_path):
    stem = torch.ones(8, 3, 3, 3)
    state = {"features.0.0.weight": stem, "body.features.0.0.weight": stem}
    assert "twice" in refusal(tmp_path / "x.pth", state)


def test_a_refused_file_leaves_the_model_as_it_was():
    model = mobile()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = {"features.0.0.weight": torch.ones(8, 3, 3, 3), "nonsense": torch.ones(1)}
    with pytest.raises(InputError):
        load_weights(model, state, "x.pth")
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([torch.ones(1)], "holds a list"),
        ({"state_dict": {"a": torch.ones(1)}}, "'state_dict', a dict"),
        ({3: torch.ones(1)}, "holds 3"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, complaint):
    assert complaint in refusal(tmp_path / "x.pth", content)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_a_broken_file_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"these are no weights")
    with pytest.raises(InputError, match="cannot read") as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


class Boom:
    def __reduce__(self):
        return print, ("code in a weights file was run",)


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    assert "cannot read" in refusal(tmp_path / "x.pth", {"a": Boom()})
    assert capsys.readouterr().out == ""


def test_without_internet_the_line_says_which_file_to_put_where(monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(InputError) as caught:
        build_model(RunConfig(model="vgg11", weights="imagenet"), (3, 32, 32), 3)
    line = str(caught.value)
    assert "vgg11_bn-6002323d.pth" in line
    assert "checkpoints" in line
    assert "\n" not in line


def test_imagenet_weights_are_torchvisions(monkeypatch):
    theirs = torchvision.models.squeezenet1_1().state_dict()
    asked = []

    def download(url, **settings):
        asked.append(url)
        return theirs

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    config = RunConfig(model="squeezenet1_1", weights="imagenet")
    model = build_model(config, (3, 32, 32), 3)
    assert "squeezenet1_1" in asked[0]
    own = model.body.state_dict()
    assert all(torch.equal(own[n], theirs[n]) for n in own)


def real(data_root, name):
    path = data_root / "weights" / name
    if not path.is_file():
        pytest.skip(f"no {name} under the data root")
    return path


@torch.no_grad()
def test_the_real_mobilenet_of_035_fills_the_whole_body(data_root):
    path = real(data_root, "mobilenet_v2_0.35_features.pth")
    config = RunConfig(model="mobilenetv2-0.35", weights=str(path))
    model = build_model(config, (3, 32, 32), 7).eval()
    state = read_weights(path)
    assert {f"body.{n}" for n in state} == {n for n in model.state_dict() if "head" not in n}
    theirs = torchvision.models.mobilenet_v2(
        width_mult=0.35, norm_layer=lambda channels: nn.BatchNorm2d(channels, eps=1e-3)
    ).eval()
    theirs.load_state_dict(state, strict=False)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(
        model.body(images), theirs.features(images).mean((2, 3)), rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_the_real_squeezenet_fills_the_whole_body(data_root):
    path = real(data_root, "squeezenet1_1_features_torchvision_norm.pth")
    config = RunConfig(model="squeezenet1_1", weights=str(path))
    model = build_model(config, (3, 64, 64), 7).eval()
    theirs = torchvision.models.squeezenet1_1().eval()
    theirs.load_state_dict(read_weights(path), strict=False)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(
        model.body(images), theirs.features(images).mean((2, 3)), rtol=1e-4, atol=1e-4
    )


def test_the_weights_of_another_width_are_refused(data_root):
    path = real(data_root, "mobilenet_v2_0.35_features.pth")
    with pytest.raises(InputError, match=r"has shape \[16, 3, 3, 3\]"):
        mobile(weights=str(path))


ODD = {
    "float8_e4m3fn": lambda plain: plain.to(torch.float8_e4m3fn),
    "complex64": lambda plain: plain.to(torch.complex64),
    "sparse_coo": lambda plain: plain.to_sparse(),
    "meta, without values": lambda plain: plain.to("meta"),
    "quint8": lambda plain: torch.quantize_per_tensor(plain, 0.1, 0, torch.quint8),
    "nested": lambda plain: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_no_plain_numbers_are_refused_by_kind(tmp_path, kind):
    state = {
        **mobile().state_dict(),
        "body.features.0.0.weight": ODD[kind](torch.zeros(8, 3, 3, 3)),
    }
    said = refusal(tmp_path / "odd.pth", state)
    assert f"'body.features.0.0.weight' is {kind}; it must be a plain tensor of float32" in said


def test_a_tensor_that_is_huge_only_by_its_shape_costs_nothing(tmp_path):
    """10^12 numbers that are one number repeated: the shape is refused before any is looked at."""
    for shape in ((10**6, 10**6), (10**6, 3, 10**3, 10**3)):
        state = {"body.features.0.0.weight": torch.zeros(1).expand(shape)}
        said = refusal(tmp_path / "wide.pth", state, shape=(1, 8, 8))
        assert f"has shape {list(shape)}" in said


def test_a_packed_weights_file_that_would_fill_the_memory_is_refused(tmp_path):
    import zipfile

    with (
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("bomb/data/0", "w") as file,
    ):
        for _ in range(300):
            file.write(bytes(2**20))
    with pytest.raises(InputError, match=r"bomb\.pth: .* that unpack to 300\.0 MiB"):
        read_weights(tmp_path / "bomb.pth")


def test_a_pipe_is_no_weights_file(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(InputError, match="is no file"):
        read_weights(tmp_path / "pipe.pth")
