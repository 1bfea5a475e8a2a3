"""How a run's clients are computed is a function of its settings and its network."""

import pytest
import tiny
import torch
from torch import nn
from toys import conv, dense

from fedadapt.config import RunConfig
from fedadapt.errors import InputError
from fedadapt.models.build import make_network
from fedadapt.simulations.engines.execution import plan_for, with_precision
from fedadapt.simulations.run import simulate


class Undecided(nn.Module):
    """What it does depends on the images."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(x if x.sum() > 0 else -x)


def planned(model, **settings):
    return plan_for(RunConfig(**settings), model, (1, 4, 4), torch.device("cpu"))


def settled(precision, name="cnn", shape=(3, 32, 32)):
    with torch.device("meta"):
        model = make_network(name, shape, 10)
    return with_precision(RunConfig(precision=precision), model, shape, torch.device("cpu"))


def test_a_dense_network_is_stacked_and_one_with_decisions_is_not():
    assert planned(dense()).execution == "stacked-kernels"
    assert planned(Undecided()).execution == "sequential"
    assert planned(dense()) == planned(dense())


def test_the_run_may_say_otherwise():
    assert planned(dense(), execution="sequential").execution == "sequential"
    assert planned(conv(), execution="stacked").execution == "stacked-kernels"
    for model in (dense(), conv(), Undecided()):
        assert planned(model, cohort_size=7).cohort_size == 7


def test_what_cannot_be_stacked_is_refused_in_a_line():
    with pytest.raises(InputError, match="execution: mlp has parts that cannot be stacked; use"):
        planned(Undecided(), execution="stacked")


@pytest.mark.parametrize(
    ("capabilities", "precision", "warned"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "bf16", True),
        ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, "bf16", False),
        ({"avx2": True, "avx512_bf16": False}, "float32", False),
    ],
)
def test_bf16_without_arithmetic_for_it_is_warned_of(
    capabilities, precision, warned, monkeypatch, caplog
):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    settled(precision)
    assert ("precision=bf16: this processor has no arithmetic" in caplog.text) == warned


def test_a_pytorch_that_cannot_be_asked_is_not_warned_of(monkeypatch, caplog):
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)
    settled("bf16")
    assert not caplog.text


@pytest.mark.parametrize(
    ("capabilities", "chosen"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({}, "float32"),
    ],
)
def test_auto_is_bf16_where_there_is_arithmetic_for_it(capabilities, chosen, monkeypatch, caplog):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    assert settled("auto") == RunConfig(precision=chosen)
    assert not caplog.records


def test_auto_is_float32_where_pytorch_cannot_be_asked(monkeypatch):
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)
    assert settled("auto").precision == "float32"


@pytest.mark.parametrize(
    ("name", "gains"),
    [("cnn", True), ("lenet", True), ("vgg11", False), ("resnet18", False), ("mlp", False),
     ("alexnet", False), ("squeezenet1_1", False), ("mobilenetv2-0.25", False)],
)  # fmt: skip
def test_auto_is_bf16_for_networks_that_hardly_do_anything_but_convolve(name, gains, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    shape = (3, 64, 64) if name == "alexnet" else (3, 32, 32)
    assert settled("auto", name, shape).precision == ("bf16" if gains else "float32")


def test_a_run_keeps_the_precision_that_was_chosen_for_it(tmp_path, monkeypatch):
    """It may go on where ``auto`` would choose another."""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx2": True}, raising=False)
    simulate(tiny.config(precision="auto", rounds=1), tmp_path, pictures=False)
    assert RunConfig.from_toml(tmp_path / "config.toml").precision == "float32"
