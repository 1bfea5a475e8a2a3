"""Exported models compute what the network computes, on any number of images."""

import io
import json
from pathlib import Path

import pytest
import tiny
import torch
from click.testing import CliRunner

import fedadapt
from fedadapt.cli import main
from fedadapt.errors import FedadaptError, InputError
from fedadapt.saved_models import export as exporting
from fedadapt.saved_models.files import read

COUNTS = (1, 2, 7)
SETTINGS = {"benchmark": "digits-domains", "clients": 4, "lr": 0.2, "workers": 1, "rounds": 2,
            "model": "third_party:norm_cnn", "adapt": "none,adabn"}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        tiny.without_pictures(patch)
        folder = tmp_path_factory.mktemp("run")
        tiny.run(folder, **SETTINGS)
    return folder


def exported(run: Path, form: str, out: Path) -> Path:
    words = ["export", run, "--client", 1, "--adaptation", "adabn", "--format", form, "--out", out]
    found = CliRunner().invoke(main, [str(word) for word in words])
    assert found.exit_code == 0, found.output
    assert "checked against the network" in found.output
    return out


def pixels(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def logits(run: Path, count: int) -> torch.Tensor:
    network = fedadapt.load(run, 1, "adabn")
    with torch.no_grad():
        return network(network.card.scaling(pixels(count)))


@pytest.fixture(scope="module")
def onnx_file(run, tmp_path_factory) -> Path:
    return exported(run, "onnx", tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.mark.slow
def test_onnx_runtime_agrees_to_a_ten_thousandth(run, onnx_file):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    for count in COUNTS:
        [found] = session.run(["logits"], {"images": (pixels(count).float() / 255).numpy()})
        assert (torch.from_numpy(found) - logits(run, count)).abs().max() < 1e-4


def test_onnx_has_the_card(run, onnx_file):
    import onnx

    [entry] = onnx.load(onnx_file).metadata_props
    _, card = read(run / "models" / "base+adabn" / "1.safetensors")
    assert json.loads(entry.value) == card.to_json()


def test_a_torch_program_agrees_and_has_the_card(run, tmp_path):
    file = exported(run, "torch-export", tmp_path / "model.pt2")
    extra = {"card.json": ""}
    program = torch.export.load(io.BytesIO(file.read_bytes()), extra_files=extra).module()
    for count in COUNTS:
        torch.testing.assert_close(program(pixels(count) / 255), logits(run, count))
    assert json.loads(extra["card.json"])["client"] == 1


def test_safetensors_is_the_model_s_file(run, tmp_path):
    file = exported(run, "safetensors", tmp_path / "model.safetensors")
    assert file.read_bytes() == (run / "models" / "base+adabn" / "1.safetensors").read_bytes()


@pytest.mark.parametrize("form", ["torch-export"])
def test_a_program_that_computes_something_else_is_not_left_there(run, tmp_path, monkeypatch, form):
    """Here it is one that forgot to normalise."""
    network = fedadapt.load(run, 1, "adabn")
    forward, calls = exporting.Normalised.forward, []

    def first_wrong(self, images):
        calls.append(1)
        return self.network(images) if len(calls) == 1 else forward(self, images)

    monkeypatch.setattr(exporting.Normalised, "forward", first_wrong)
    with pytest.raises(FedadaptError, match="does not compute what the network computes; nothing"):
        exporting.export(network, network.card, form, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_one_line(run, tmp_path, monkeypatch):
    network = fedadapt.load(run, 1)
    with pytest.raises(InputError, match="format: unknown 'onxx'; did you mean 'onnx'"):
        exporting.export(network, network.card, "onxx", tmp_path / "model")
    with pytest.raises(InputError, match="there is no folder"):
        exporting.export(network, network.card, "safetensors", tmp_path / "no" / "model")
    with pytest.raises(InputError, match="is a folder; name a file"):
        exporting.export(network, network.card, "safetensors", tmp_path)
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r'onnx is not installed; pip install "fedadapt\[export\]"'
    ):
        exporting.export(network, network.card, "onnx", tmp_path / "model")


def test_a_network_that_no_exporter_understands_is_one_line(run, tmp_path):
    class Branching(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1)[:, :2] * (2 if float(images.sum()) > 0 else 1)

    card = fedadapt.load(run, 1).card
    with pytest.raises(FedadaptError, match="cannot be exported") as error:
        exporting.export(Branching(), card, "torch-export", tmp_path / "model")
    assert "\n" not in str(error.value)


def test_the_command_knows_the_formats():
    from fedadapt.saved_models.command import FORMATS

    assert tuple(exporting.FORMATS) == FORMATS
