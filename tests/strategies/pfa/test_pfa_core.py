"""PFA: what a client reports, how the server groups, and that groups are worth having."""

import copy
import itertools

import numpy as np
import pytest
import tiny
import torch
import toys
from click.testing import CliRunner
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from fedadapt.cli import main
from fedadapt.client.statistics.sparsity import sparsity_vectors
from fedadapt.datasets.benchmark import Examples, Split
from fedadapt.errors import InputError
from fedadapt.server.clustering.grouping import group_clients
from fedadapt.simulations.results.parquet import read_communication

TRUTH = np.repeat([0, 1, 2], 6)


def reported(model: nn.Module, images: Tensor, **how: object) -> Tensor:
    mine = Examples(images, torch.zeros(len(images), dtype=torch.int64))
    cohort = toys.cohort(copy.deepcopy(model).to("meta"), [Split(mine, mine, mine)])
    weights = {n: t.detach().unsqueeze(0) for n, t in model.state_dict().items()}
    return sparsity_vectors(cohort, weights, **how)[0]


def identity(channels: int, activation: nn.Module) -> nn.Sequential:
    """A 1x1 convolution that hands each channel through, then the activation."""
    convolution = nn.Conv2d(channels, channels, 1, bias=False).double()
    with torch.no_grad():
        convolution.weight.copy_(torch.eye(channels).view(channels, channels, 1, 1))
    return nn.Sequential(
        convolution, activation, nn.Flatten(), nn.Linear(channels * 16, 2).double()
    )


def test_nine_zeros_of_sixteen_are_0_5625():
    image = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    image.view(-1)[:9] = -1
    found = reported(identity(1, nn.ReLU()), image)
    assert found.dtype == torch.float64
    assert found.tolist() == [0.5625]


def test_the_least_number_above_zero_is_none():
    image = torch.full((1, 1, 4, 4), 5e-324, dtype=torch.float64)
    image.view(-1)[:4] = 0
    assert reported(identity(1, nn.ReLU()), image).tolist() == [0.25]


def test_what_relu6_cuts_off_is_no_zero():
    image = torch.full((1, 1, 4, 4), 7.0, dtype=torch.float64)
    image.view(-1)[:4] = 0
    assert reported(identity(1, nn.ReLU6()), image).tolist() == [0.25]


def test_order_and_batches_of_images_do_not_show():
    model = identity(3, nn.ReLU())
    images = torch.randn(37, 3, 4, 4, dtype=torch.float64)
    whole = reported(model, images)
    assert torch.equal(whole, (images <= 0).double().mean((0, 2, 3)))
    assert torch.equal(reported(model, images.flip(0), batch_size=5), whole)


def test_channels_are_those_asked_for_in_that_order():
    model = identity(4, nn.ReLU())
    images = torch.randn(8, 4, 4, 4, dtype=torch.float64)
    assert torch.equal(reported(model, images, channels=[3, 1]), reported(model, images)[[3, 1]])


def test_an_activation_without_zeros_takes_a_threshold():
    images = torch.tensor([[-2.0, -0.01, 0.01, 3.0] * 4], dtype=torch.float64).view(1, 1, 4, 4)
    found = reported(identity(1, nn.Tanh()), images, epsilon=0.1)
    assert found.tolist() == [0.5]


def test_a_network_without_relu_is_refused_in_one_line():
    with pytest.raises(InputError) as error:
        reported(nn.Sequential(nn.Flatten(), nn.Linear(16, 2).double()),
                 torch.ones(2, 1, 4, 4, dtype=torch.float64))  # fmt: skip
    assert "\n" not in str(error.value)


def three_kinds(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(3, 30, generator=generator, dtype=torch.float64)
    noise = 0.01 * torch.randn(18, 30, generator=generator, dtype=torch.float64)
    return centres[TRUTH] + noise


@pytest.mark.parametrize(
    ("method", "groups", "seed"),
    itertools.product(["efficient", "exact"], [None, 3], range(5)),
)
def test_three_kinds_of_clients_are_three_groups(method, groups, seed):
    found = group_clients(three_kinds(seed), groups=groups, method=method, seed=seed)
    assert found.num_groups == 3
    assert adjusted_rand_score(TRUTH, found.labels) == 1.0


def test_kinds_equally_far_from_the_reference_are_told_apart():
    """Two kinds equally far from the reference: one distance is not enough."""
    corners = torch.zeros(3, 4, dtype=torch.float64)
    corners[1, 1] = corners[2, 2] = 1.0
    corners[0, 0] = 2.0
    noise = 1e-3 * torch.randn(
        18, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    found = group_clients(corners[TRUTH] + noise, method="efficient")
    assert adjusted_rand_score(TRUTH, found.labels) == 1.0
    assert found.aliased
    assert found.method == "exact"


def test_the_order_of_clients_does_not_show():
    vectors = three_kinds(0)
    order = torch.randperm(18, generator=torch.Generator().manual_seed(1))
    plain, shuffled = group_clients(vectors), group_clients(vectors[order])
    assert adjusted_rand_score(plain.labels[order], shuffled.labels) == 1.0


def test_a_late_client_joins_the_nearest_group():
    vectors = three_kinds(0)
    found = group_clients(vectors)
    for client in (0, 7, 17):
        assert found.assign(vectors[client] + 0.01) == found.labels[client]


PFA = {"strategy": "pfa", "clients": 10, "rounds": 4, "adapt": "none"}


def test_groups_are_the_kinds_and_worth_having(tmp_path):
    """Ten clients of five class pairs: the personal models beat the base model, byte for byte."""
    summary = tiny.run(tmp_path, **PFA, strategy_args="federated_rounds=2")
    assert summary["accuracy"]["personal"]["mean"] > summary["accuracy"]["base"]["mean"] + 0.2
    asked = [e for e in read_communication(tmp_path) if e.action == "query.sparsity"]
    assert [(e.round, e.client) for e in asked] == [(3, client) for client in range(10)]
    assert {e.bytes_up for e in asked} == {4 * 30 + 8}  # thirty floats, and a weight


def test_one_group_is_fedavg(tmp_path):
    one = "federated_rounds=2 groups=1"
    pfa = tiny.run(tmp_path / "pfa", **PFA, strategy_args=one)
    fedavg = tiny.run(tmp_path / "fedavg", **{**PFA, "strategy": "fedavg"})
    accuracy = {k: pfa["accuracy"]["personal"][k] for k in ("mean", "std", "worst10", "min")}
    assert accuracy == {k: fedavg["accuracy"]["base"][k] for k in accuracy}


@pytest.mark.slow
def test_a_run_cut_off_among_groups_goes_on(tmp_path):
    settings = {**PFA, "strategy_args": "federated_rounds=2"}
    whole = tiny.run(tmp_path / "whole", **settings)
    tiny.run_interrupted(tmp_path / "cut", round=4, **settings)
    again = tiny.run(tmp_path / "cut", resume=True, **settings)
    assert tiny.timeless(again) == tiny.timeless(whole)


def test_unseen_clients_get_a_group_too(tmp_path):
    settings = {**PFA, "unseen": 0.2, "strategy_args": "federated_rounds=2"}
    summary = tiny.run(tmp_path, **settings)
    assert summary["accuracy_unseen"]["personal"]["num_clients"] == 2
    trained = {e.client for e in read_communication(tmp_path) if e.action == "train"}
    assert len(trained) == 8


def test_random_groups_ask_nobody(tmp_path):
    tiny.run(tmp_path, **PFA, strategy_args="federated_rounds=2 random=true groups=5")
    assert not [e for e in read_communication(tmp_path) if e.action == "query.sparsity"]


def test_a_layer_that_is_none_is_refused_before_anything_is_written(tmp_path):
    given = tiny.options(strategy="pfa", rounds=2, strategy_args="layer=99", out=tmp_path / "run")
    result = CliRunner().invoke(main, ["simulate", *given])
    assert result.exit_code == 2
    assert "layer 99" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
