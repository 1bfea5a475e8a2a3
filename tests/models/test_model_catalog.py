"""What is refused at the door, without torch."""

import subprocess
import sys

import pytest

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.models import catalog


def refusal(**settings) -> str:
    with pytest.raises(InputError) as caught:
        catalog.check(RunConfig(**settings))
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_the_catalogue_needs_no_torch():
    program = (
        "import sys; from fedadapt.models import catalog; from fedadapt.config import RunConfig; "
        "catalog.check(RunConfig()); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", [*catalog.names(), "mobilenetv2-0.5", "nets.small:make"])
def test_every_network_of_the_table_and_its_relatives_pass(name):
    catalog.check(RunConfig(model=name))


@pytest.mark.parametrize(("wrong", "meant"), [("vgg-11", "vgg11"), ("resnet", "resnet18")])
def test_an_unknown_network_gets_the_nearest_name(wrong, meant):
    line = refusal(model=wrong)
    assert f"did you mean '{meant}'" in line
    assert "module:factory" in line


@pytest.mark.parametrize("width", ["", "x", "nan", "inf", "0", "-1", "1e-1", "9", "0.25.1", "٣"])
def test_a_malformed_width_is_refused(width):
    assert "e.g. mobilenetv2-0.25" in refusal(model=f"mobilenetv2-{width}")


def test_mobilenetv2_needs_its_width():
    assert "mobilenetv2-<width>" in refusal(model="mobilenetv2")


def test_a_width_written_otherwise_is_the_same_network():
    assert catalog.find("mobilenetv2-0.250").num_parameters == 250_922
    assert catalog.find("mobilenetv2-1").imagenet
    assert catalog.find("mobilenetv2-0.5").num_parameters is None


@pytest.mark.parametrize("name", [":", "nets:", ":make", "a b:make", "nets:make:it", "nets.:make"])
def test_a_malformed_factory_is_refused(name):
    assert "module:factory" in refusal(model=name)


@pytest.mark.parametrize("policy", ["local", "reestimate"])
def test_policies_for_statistics_need_batch_normalisation(policy):
    assert refusal(model="cnn", batch_norm=policy).startswith(f"batch-norm: {policy} needs")
    catalog.check(RunConfig(model="resnet18", batch_norm=policy))


def test_an_image_size_below_the_minimum_is_refused_before_any_data_is_read():
    assert "image-size=63" in refusal(model="alexnet", image_size=32)
    catalog.check(RunConfig(model="alexnet", image_size=63))


def test_a_missing_weights_file_is_named(tmp_path):
    assert "gone.pth" in refusal(model="vgg11", weights=str(tmp_path / "gone.pth"))
    (tmp_path / "folder.pth").mkdir()
    assert "folder.pth" in refusal(model="vgg11", weights=str(tmp_path / "folder.pth"))


def test_other_kinds_of_file_are_refused(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"")
    assert ".safetensors or .pth" in refusal(model="vgg11", weights=str(path))
    assert "did you mean 'imagenet'" in refusal(model="vgg11", weights="imagnet")


@pytest.mark.parametrize("model", ["mlp", "mobilenetv2-0.25", "nets:make"])
def test_imagenet_weights_are_only_promised_where_torchvision_has_them(model):
    assert "no imagenet weights" in refusal(model=model, weights="imagenet")


def test_an_existing_file_and_imagenet_pass(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"")
    catalog.check(RunConfig(model="mlp", weights=str(path)))
    catalog.check(RunConfig(model="vgg11", weights="imagenet"))
