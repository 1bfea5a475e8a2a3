"""``fedadapt privacy-inversion`` as somebody at a terminal meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from click.testing import CliRunner

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.privacy.command import privacy_inversion
from fedadapt.privacy.victim import load_victim

QUICK = ["--images", "2", "--steps", "2", "--layers", "0", "--device", "cpu"]

REFUSED = [
    ("--properties fm,hsp", "properties: unknown 'hsp'; did you mean 'h_sp'?"),
    ("--properties fm,fm", "properties: fm is given twice"),
    ("--properties ,", "properties: nothing given"),
    ("--layers 0,0", "layers: 0 is given twice"),
    ("--layers 7", "layers: layer 7; the network has 3 of them"),
    ("--layers 2", "layers: 2 (body.8) has hidden units and no map"),
    ("--images 0", "images: 0 is out of range; it must be >= 1"),
    ("--steps 0", "steps: 0 is out of range; it must be >= 1"),
    ("--seed -1", "seed: -1 is out of range; it must be >= 0"),
    ("--model mlp", "model: no ReLU of this network has maps"),
    ("--model mpl", "model: unknown 'mpl'; did you mean 'mlp'?"),
    ("--weights none.pth", "weights: no file 'none.pth'"),
    ("--benchmark digit-classes", "did you mean 'digits-classes'"),
    ("--images 5000", "images: 5000 would take"),
    ("--run nowhere", "run: nowhere/config.toml is not there"),
    ("--run nowhere --model cnn", "model: a run has its own; leave --model or --run away"),
    ("--out taken", "out: taken: "),
]


def invoke(*arguments: object):
    return CliRunner().invoke(privacy_inversion, [str(a) for a in arguments])


@pytest.mark.parametrize(("line", "answer"), REFUSED)
def test_bad_input_is_one_line(line, answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file")
    words = line.split()
    quick = [w for i in range(0, 8, 2) if QUICK[i] not in words for w in QUICK[i : i + 2]]
    error = invoke(*words, *quick).exception
    assert isinstance(error, InputError)
    assert answer in str(error)
    assert "\n" not in str(error)


def test_without_a_run_digits_are_attacked(tmp_path):
    result = invoke(*QUICK, "--out", tmp_path)
    assert result.exit_code == 0, result.exception
    assert "first ReLU" in result.output
    assert "mid-grey" in result.output
    content = json.loads((tmp_path / "inversion.json").read_text("utf-8"))
    assert content["source"]["weights"] == "random"
    assert len(content["inversions"]) == 2 * 4
    assert (tmp_path / "inversion.png").is_file()


def test_the_base_model_of_a_run_is_attacked(tmp_path, monkeypatch):
    tiny.without_pictures(monkeypatch)
    tiny.run(tmp_path, model="cnn", rounds=1, adapt="none")
    result = invoke("--run", tmp_path, *QUICK)
    assert result.exit_code == 0, result.exception
    assert json.loads((tmp_path / "privacy" / "inversion.json").read_text("utf-8"))
    config = RunConfig.from_toml(tmp_path / "config.toml")
    victim = load_victim(config, tmp_path / "models" / "base.safetensors", 8, seed=1)
    assert tiny.same_bits(dict(victim.model.state_dict()), tiny.base(tmp_path))
    assert sorted(set(victim.clients)) == list(range(6))
    again = load_victim(config, tmp_path / "models" / "base.safetensors", 8, seed=1)
    assert torch.equal(victim.images, again.images)


def test_the_command_is_light():
    code = "import fedadapt.privacy.command, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
