"""Temperatures with closed forms and limits."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from fedadapt.client.calibration import COOLEST, HOTTEST, SPREAD, confidences, fit_temperature


def two_classes(margin, right, wrong):
    """Logits (m, 0) of images of which so many are right."""
    logits = torch.tensor([[margin, 0.0]] * (right + wrong), dtype=torch.float64)
    return logits, torch.tensor([0] * right + [1] * wrong)


def test_with_many_images_a_model_becomes_as_sure_as_it_is_right():
    """Of logits (m, 0) with a share p of right answers, m / T = log(p / (1 - p))."""
    logits, labels = two_classes(6.0, 80_000, 20_000)
    temperature = fit_temperature(logits, labels)
    assert temperature == pytest.approx(6.0 / math.log(4), rel=1e-3)
    assert confidences(logits, temperature)[0] == pytest.approx(0.8, abs=1e-3)


def test_with_few_images_it_is_where_likelihood_and_prior_balance():
    """d/du [n log(1 + exp(m e^-u)) - r m e^-u + u^2 / (2 s^2)] = 0 for u = log T."""
    logits, labels = two_classes(3.0, 7, 1)

    def slope(u):
        z = 3.0 * math.exp(-u)
        return -z * (8 / (1 + math.exp(-z)) - 7) + u / SPREAD**2

    assert math.log(fit_temperature(logits, labels)) == pytest.approx(
        brentq(slope, -2, 2), abs=1e-4
    )


def test_right_answers_alone_make_no_model_infinitely_sure():
    logits, labels = two_classes(2.0, 12, 0)
    assert 0.3 < fit_temperature(logits, labels) < 1.0
    assert COOLEST < fit_temperature(*two_classes(2.0, 10**6, 0)) < 0.3


def test_it_stays_in_its_bounds_and_is_one_without_images():
    assert fit_temperature(*two_classes(50.0, 0, 10**5)) <= HOTTEST
    assert fit_temperature(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)) == 1.0


def test_the_prediction_does_not_depend_on_it():
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for temperature in (0.3, 1.0, 4.0):
        sure = confidences(logits, temperature)
        scaled = (logits / temperature).softmax(1)
        np.testing.assert_allclose(sure, scaled.gather(1, logits.argmax(1, True))[:, 0])
