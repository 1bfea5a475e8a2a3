"""Calibration error and risk against coverage, by hand."""

import numpy as np
import pytest

from fedadapt.records import Confidence
from fedadapt.simulations.results.calibration import (
    accuracy_by_coverage,
    area_under_risk,
    expected_calibration_error,
    risks,
    sureness,
)


def test_sure_of_eight_in_ten_and_eight_of_ten_right_is_no_error():
    assert expected_calibration_error([0.8] * 10, [1] * 8 + [0] * 2) == pytest.approx(0, abs=1e-12)


def test_the_error_is_the_mean_gap_weighted_by_images():
    """Three images at 0.9 with one right, one at 0.5 that is right."""
    found = expected_calibration_error([0.9, 0.9, 0.9, 0.5], [1, 0, 0, 1])
    assert found == pytest.approx(3 / 4 * abs(1 / 3 - 0.9) + 1 / 4 * 0.5)


def test_gaps_in_one_bin_cancel_and_in_two_they_do_not():
    assert expected_calibration_error([0.5, 0.5], [1, 0], bins=2) == pytest.approx(0)
    assert expected_calibration_error([0.4, 0.6], [1, 0], bins=2) == pytest.approx(0.6)
    assert expected_calibration_error([1.0, 0.0], [1, 0]) == pytest.approx(0)  # both ends


def test_the_least_sure_image_wrong_is_a_quarter_of_a_quarter():
    assert risks([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0]).tolist() == [0, 0, 0, 0.25]
    assert area_under_risk([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0]) == pytest.approx(0.0625)
    assert area_under_risk([0.6, 0.7, 0.8, 0.9], [1, 1, 1, 0]) == pytest.approx(
        (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4
    )


def test_equally_sure_images_have_no_order():
    right = [1, 0, 1, 0]
    for order in ([0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0]):
        found = risks([0.5] * 4, [right[i] for i in order])
        np.testing.assert_allclose(found, [0.5] * 4)
    mixed = risks([0.9, 0.5, 0.5], [0, 1, 0])
    np.testing.assert_allclose(mixed, [1, 1.5 / 2, 2 / 3])


def test_accuracy_at_a_coverage_is_that_of_the_surest_images():
    sure, right = np.linspace(1, 0.1, 10), [1] * 6 + [0] * 4
    found = accuracy_by_coverage(sure, right, np.array([0.1, 0.6, 0.61, 1.0]))
    np.testing.assert_allclose(found, [1, 1, 6 / 7, 0.6])


def row(client, model="base", seen=True, right=(True, False), raw=(0.9, 0.8), temperature=2.0):
    cooler = [p / 2 + 0.2 for p in raw]
    return Confidence(3, client, seen, model, "none", temperature, [*right], [*raw], cooler)


def test_a_summary_pools_images_and_averages_clients():
    rows = [row(0, temperature=1.0), row(1, right=(True, True), temperature=3.0)]
    rows += [row(2, seen=False, right=(False, False)), row(0, "personal", right=(True, True))]
    found = sureness(rows, chosen={0: ("personal", "none"), 1: ("base", "none")})
    assert list(found) == ["base", "personal", "served"]
    base = found["base"]
    assert (base.num_clients, base.accuracy, base.temperature) == (2, 0.75, 2.0)
    assert base.raw == pytest.approx(0.85)
    assert base.calibrated == pytest.approx(0.625)
    assert base.aurc == pytest.approx((0.25 + 0) / 2)
    assert base.by_coverage[0] == 1.0
    assert base.by_coverage[-1] == pytest.approx(0.75)
    assert found["served"].accuracy == 1.0
