"""Likeness of images, against its definition."""

import numpy as np
import pytest

from fedadapt.privacy.quality import psnr, ssim

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.random((3, 16, 16))


@pytest.mark.parametrize("off", [0.1, 0.01])
def test_psnr_is_twenty_decibels_for_each_power_of_ten(off):
    assert psnr(IMAGE, IMAGE + off) == pytest.approx(-20 * np.log10(off))


def test_equal_images_are_as_like_as_can_be():
    assert psnr(IMAGE, IMAGE) == 100.0
    assert ssim(IMAGE, IMAGE) == pytest.approx(1.0)


def test_noise_lowers_the_similarity_and_more_noise_lowers_it_further():
    little, much = (np.clip(IMAGE + s * RANDOM.normal(size=IMAGE.shape), 0, 1) for s in (0.1, 0.5))
    assert 1 > ssim(IMAGE, little) > ssim(IMAGE, much)
    assert abs(ssim(IMAGE, RANDOM.random(IMAGE.shape))) < 0.2


def test_ssim_of_two_even_images_is_wangs_luminance_term():
    a, b, c = 0.2, 0.6, 0.01**2
    found = ssim(np.full((1, 9, 9), a), np.full((1, 9, 9), b))
    assert found == pytest.approx((2 * a * b + c) / (a**2 + b**2 + c))


@pytest.mark.parametrize("side", [4, 5, 6, 7, 8])
def test_images_smaller_than_a_window_are_measured_too(side):
    image = IMAGE[:, :side, :side]
    assert ssim(image, image) == pytest.approx(1.0)
