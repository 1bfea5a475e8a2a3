"""Figure 3: correlation by definition; which model sees which images."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from toys import assert_same_bits

from fedadapt.client.statistics.importance import importances
from fedadapt.reproductions.dua.correlation import PAIRS, Correlations, Quartet, pearson, quartets
from fedadapt.selectors import head
from fedadapt.simulations.assembly import assemble
from fedadapt.strategies.dua.experts.training import load_experts
from fedadapt.weights import repeat, row


def drawn(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.rand(3, 5, generator=generator), "b": 7 + torch.rand(4, generator=generator)}


def flat(weights) -> np.ndarray:
    return torch.cat([t.flatten() for t in weights.values()]).double().numpy()


def test_correlation_is_of_all_parameters_as_one_vector():
    a, b = drawn(1), drawn(2)
    assert pearson(a, b) == pytest.approx(np.corrcoef(flat(a), flat(b))[0, 1], abs=1e-12)


def test_scale_and_offset_do_not_matter_and_sign_does():
    a = {n: t.double() for n, t in drawn(1).items()}
    assert pearson(a, {n: 3 * t + 2 for n, t in a.items()}) == pytest.approx(1)
    assert pearson(a, {n: -t for n, t in a.items()}) == pytest.approx(-1)


def test_of_something_constant_there_is_no_correlation():
    a = drawn(1)
    assert np.isnan(pearson(a, {n: torch.ones_like(t) for n, t in a.items()}))


def test_small_numbers_are_not_lost():
    a, b = drawn(1), drawn(2)
    tiny_a = {n: 1e-20 * t.double() for n, t in a.items()}
    assert pearson(tiny_a, b) == pytest.approx(pearson(a, b), abs=1e-6)


def test_pairs_share_what_they_are_called_by():
    same, other = drawn(1), drawn(2)
    assert Quartet(same, same, other, other).rho()["M1"] == pytest.approx(1)
    assert Quartet(same, same, other, other).rho()["M2"] == pytest.approx(1)
    assert Quartet(same, other, same, other).rho()["D1"] == pytest.approx(1)
    assert Quartet(same, other, same, other).rho()["D2"] == pytest.approx(1)
    assert Quartet(same, other, same, other).rho()["M1"] < 0.999


def test_means_are_over_seeds_and_users():
    def rho(value):
        return dict.fromkeys(PAIRS, value)

    found = Correlations((7, 8), [[rho(0.1), rho(0.3)], [rho(0.5), rho(0.7)]], None)
    assert found.mean()["M1"] == pytest.approx(0.4)
    assert found.mean(7)["M1"] == pytest.approx(0.2)
    assert found.mean(8, 0)["M1"] == pytest.approx(0.5)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figure")
    return tiny.config(
        benchmark="digits-tasks", clients=3, rounds=3, examples=40, adapt="none",
        strategy="mas-racl", strategy_args=f"epochs=2 lr=0.02 expert_folder={folder / 'experts'}",
        out=str(folder / "run"),
    )  # fmt: skip


def test_each_expert_sees_both_tasks_images_of_a_user_with_its_own_head(config, tmp_path):
    found = list(quartets(config))
    assert len(found) == 3
    assembly = assemble(config)
    [folder] = (tmp_path / config.strategy_args.split("expert_folder=")[1]).iterdir()
    experts = load_experts(folder)
    assert len(experts) == 2  # no more are needed
    for place, (model, data) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        cohort = assembly.worker.at(data).cohort([2], 1)
        wanted = importances(
            cohort, repeat(experts[model].weights, 1), exclude=head(assembly.model)
        )
        assert_same_bits(found[2][place], row(wanted, 0))
        assert all(not name.startswith("head") for name in found[2][place])


def test_experts_that_are_there_are_not_trained_again(config, monkeypatch):
    list(quartets(config))

    def trained(*arguments):
        raise AssertionError("something was trained")

    monkeypatch.setattr("fedadapt.strategies.dua.experts.training.learn", trained)
    assert len(list(quartets(replace(config, clients=2)))) == 2
