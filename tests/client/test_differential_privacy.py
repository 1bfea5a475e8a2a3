"""Differential privacy of what a client says, against the formulas of Balle & Wang 2018."""

import builtins
import math
import random
from collections.abc import Mapping

import numpy as np
import pytest
import torch
import toys
from scipy.stats import kstest, norm
from torch import Tensor

from fedadapt.client.differential_privacy import (
    Guarantee,
    check,
    noise_source,
    promised,
    release,
    release_once,
    sensitivity,
)
from fedadapt.errors import InputError
from fedadapt.messages import Sent
from fedadapt.weights import Weights

pytest.importorskip("dp_accounting")

GUARANTEES = [
    Guarantee(epsilon, delta)
    for epsilon in (0.01, 0.5, 1.0, 8.0, 300.0)
    for delta in (1e-8, 1e-5, 0.1)
]
ONE = Guarantee(1.0, 1e-5)


def delta_of(epsilon: float, scale: float) -> float:
    """The least delta for noise of this scale at sensitivity 1: Balle & Wang 2018, equation 6."""
    near, far = 1 / (2 * scale) - epsilon * scale, -1 / (2 * scale) - epsilon * scale
    return float(norm.cdf(near) - np.exp(epsilon + norm.logcdf(far)))


@pytest.mark.parametrize("guarantee", GUARANTEES)
def test_the_noise_is_the_least_that_keeps_the_promise(guarantee):
    scale = guarantee.noise
    assert delta_of(guarantee.epsilon, scale) == pytest.approx(guarantee.delta, rel=1e-6)
    assert delta_of(guarantee.epsilon, 0.999 * scale) > guarantee.delta


def test_less_than_the_classical_gaussian_mechanism():
    """Dwork & Roth 2014, theorem A.1: sqrt(2 ln(1.25 / delta)) / epsilon, for epsilon < 1."""
    assert Guarantee(0.9, 1e-5).noise < math.sqrt(2 * math.log(1.25e5)) / 0.9


@pytest.mark.parametrize("releases", [2, 10])
def test_several_releases_are_one_that_is_as_much_more_sensitive(releases):
    total = ONE.after(releases)
    assert delta_of(total.epsilon, ONE.noise / math.sqrt(releases)) == pytest.approx(1e-5, rel=1e-6)
    assert ONE.epsilon < total.epsilon < releases * ONE.epsilon
    assert ONE.after(1) == ONE


def test_one_image_for_another_moves_the_mean_by_the_sensitivity_at_most():
    """And by exactly that where all channels go from always on to always off."""
    drawn = torch.rand(70, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images, others = drawn[:20], drawn[20:]
    for other in others:
        neighbour = torch.cat([other[None], images[1:]])
        moved = (neighbour.mean(0) - images.mean(0)).norm()
        assert moved <= sensitivity(7, 20)
    off, on = torch.zeros(20, 7), torch.zeros(20, 7)
    on[3] = 1
    assert float((on.mean(0) - off.mean(0)).norm()) == pytest.approx(sensitivity(7, 20))


def test_the_noise_is_gaussian_of_the_promised_size():
    """Twenty thousand entries far from 0 and 1, so that nothing is cut off."""
    vector = torch.full((20_000,), 0.5, dtype=torch.float64)
    images = 20_000
    found = release(vector, images, ONE, random.Random(1)) - 0.5
    scale = ONE.noise * math.sqrt(20_000) / images
    assert scale < 0.05
    assert kstest(found.numpy() / scale, "norm").pvalue > 0.01


def test_what_leaves_is_a_share_again():
    found = release(torch.tensor([0.0, 1.0] * 50), 1, ONE, random.Random(1))
    assert found.dtype == torch.float64
    assert bool(((found >= 0) & (found <= 1)).all())


def test_without_a_seed_noise_is_the_systems():
    assert isinstance(noise_source(None, 3, 4), random.SystemRandom)
    vector = torch.full((4,), 0.5)
    told = [release(vector, 10, ONE, noise_source(None)) for _ in range(2)]
    assert not torch.equal(*told)


def test_a_seed_gives_each_client_and_round_its_own_noise_again():
    draws = [noise_source(1, r, d).random() for r in range(3) for d in range(3)]
    assert len(set(draws)) == 9
    assert draws == [noise_source(1, r, d).random() for r in range(3) for d in range(3)]


def asked(weights: Weights, round: int = 1, **config: object) -> Sent:
    return Sent((10, 11), weights, {"server-round": round, **config})


def answered(sent: Sent, states: tuple[Mapping[str, Weights], ...] = ()) -> tuple[Tensor, Weights]:
    cohort = toys.cohort(toys.dense(), [toys.split(20), toys.split(40, seed=1)], states=states)
    return release_once(cohort, sent, lambda: torch.full((2, 6), 0.5), ONE)


def remembered(states: Weights) -> tuple[dict[str, Weights], ...]:
    return tuple({"release": {n: t[d] for n, t in states.items()}} for d in range(2))


def test_a_client_gives_the_same_noisy_answer_to_the_same_question():
    weights = toys.initials(toys.dense(), 2)
    said, states = answered(asked(weights))
    again, still = answered(asked(weights, round=2), remembered(states))
    assert said.dtype == torch.float32
    assert torch.equal(again, said)
    assert still["releases"].tolist() == [1, 1]


def test_another_question_has_fresh_noise_and_is_counted():
    weights = toys.initials(toys.dense(), 2)
    said, states = answered(asked(weights, layer="first"))
    for other in (asked(weights, layer=1), asked(toys.initials(toys.dense(), 2, 5), layer="first")):
        more, then = answered(other, remembered(states))
        assert not torch.equal(more, said)
        assert then["releases"].tolist() == [2, 2]


def test_more_images_need_less_noise():
    """Twice the images, half the spread; over 4000 entries, in none of which it is cut off."""
    weights = toys.initials(toys.dense(), 2)
    loose = Guarantee(1000.0, 1e-5)
    cohort = toys.cohort(toys.dense(), [toys.split(20), toys.split(40, seed=1)])
    said = release_once(cohort, asked(weights), lambda: torch.full((2, 4000), 0.5), loose)[0]
    few, many = (float(v.double().std()) for v in said)
    assert few == pytest.approx(loose.noise * sensitivity(4000, 20), rel=0.05)
    assert few / many == pytest.approx(2, rel=0.1)


def test_a_client_with_an_epsilon_of_its_own_says_nothing_with_less():
    none = Guarantee(0.0, 1e-5)
    assert promised({}, none) is None
    assert promised({}, ONE) == ONE
    assert promised({"dp-epsilon": 5.0, "dp-delta": 1e-3}, none) == Guarantee(5.0, 1e-3)
    assert promised({"dp-epsilon": 5.0, "dp-delta": 1e-3}, ONE) == ONE
    assert promised({"dp-epsilon": 0.5, "dp-delta": 1e-3}, ONE) == Guarantee(0.5, 1e-5)


@pytest.mark.parametrize(
    "bad",
    [(-1.0, 1e-5), (1e7, 1e-5), (1e-7, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5), (1, 0), (1, 1)],
)
def test_an_impossible_privacy_guarantee_is_refused_in_one_line(bad):
    with pytest.raises(InputError, match="dp_") as error:
        check(Guarantee(*bad))
    assert "\n" not in str(error.value)


def test_a_missing_library_is_named_with_the_command(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "dp_accounting":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install .fedadapt\[privacy\]"):
        check(ONE)
