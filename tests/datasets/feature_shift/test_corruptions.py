"""The ten corruptions: shapes, repeatability, and the published parameters."""

import colorsys

import numpy as np
import pytest

from fedadapt.datasets.feature_shift.corruptions import corrupt
from fedadapt.datasets.feature_shift.shift import shifted
from fedadapt.datasets.feature_shift.spec import CORRUPTIONS, Corruptions, OneCorruption


def smooth_image(height=28, width=28, channels=3, seed=0):
    """A smooth image with noise: no flat parts, all brightnesses."""
    y, x, c = np.mgrid[:height, :width, :channels]
    waves = 127 + 90 * np.sin(y / 5 + c) * np.cos(x / 7 - c)
    noise = np.random.default_rng(seed).normal(0, 10, waves.shape)
    return np.clip(waves + noise, 0, 255).astype(np.uint8)


def flat(value, channels=3, side=64):
    return np.full((side, side, channels), value, np.uint8)


def corrupt_reply(image, name, severity=3, seed=0):
    return corrupt(image, name, severity, np.random.default_rng(seed))


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (96, 70, 3), (8, 8, 1)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_keeps_shape_and_type_and_can_be_repeated(name, shape):
    image = smooth_image(*shape)
    given = image.copy()
    for severity in range(1, 6):
        corrupted = corrupt_reply(image, name, severity)
        assert corrupted.shape == shape
        assert corrupted.dtype == np.uint8
        assert np.array_equal(corrupted, corrupt_reply(image, name, severity))
    assert np.array_equal(image, given)
    if (name, shape[2]) != ("saturation", 1):  # grey has none
        assert not np.array_equal(corrupt_reply(image, name), image)


@pytest.mark.parametrize("name", ["gaussian-noise", "impulse-noise", "elastic", "spatter"])
def test_random_corruptions_differ_with_the_stream(name):
    assert not np.array_equal(
        corrupt_reply(smooth_image(), name, seed=1), corrupt_reply(smooth_image(), name, seed=2)
    )


@pytest.mark.parametrize(
    "name", ["gaussian-noise", "brightness", "gaussian-blur", "jpeg", "contrast", "impulse-noise"]
)
def test_a_higher_severity_is_further_from_the_smooth_image(name):
    image = smooth_image(64, 64).astype(float)
    errors = [
        np.abs(corrupt_reply(smooth_image(64, 64), name, s) - image).mean() for s in range(1, 6)
    ]
    assert errors == sorted(errors)
    assert errors[4] > 1.1 * errors[0]


def test_contrast_pulls_each_channel_to_a_fifth_of_its_distance_from_the_mean():
    image = smooth_image(64, 64)
    mean = image.mean(axis=(0, 1))
    assert np.abs(corrupt_reply(image, "contrast") - ((image - mean) * 0.2 + mean)).max() <= 0.501


@pytest.mark.parametrize("rgb", [(120, 60, 30), (10, 200, 90), (0, 0, 0), (90, 90, 90)])
def test_brightness_adds_three_tenths_to_the_value_in_hsv(rgb):
    hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))
    expected = np.array(colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.3))) * 255
    assert np.abs(corrupt_reply(flat(rgb, side=4), "brightness")[0, 0] - expected).max() <= 0.501


@pytest.mark.parametrize("rgb", [(120, 60, 30), (100, 90, 80), (0, 0, 0), (90, 90, 90)])
@pytest.mark.parametrize(("severity", "factor", "offset"), [(1, 0.3, 0), (3, 2, 0), (5, 30, 0.2)])
def test_saturation_multiplies_the_saturation_in_hsv(rgb, severity, factor, offset):
    hue, saturation, value = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))
    if saturation == 0:
        expected = np.array(rgb)  # a grey has no hue to go towards
    else:
        expected = 255 * np.array(
            colorsys.hsv_to_rgb(hue, min(1, saturation * factor + offset), value)
        )
    corrupted = corrupt_reply(flat(rgb, side=4), "saturation", severity)[0, 0]
    assert np.abs(corrupted - expected).max() <= 0.501


def test_gaussian_noise_has_the_published_spread():
    noise = corrupt_reply(flat(128), "gaussian-noise").astype(float) - 128
    assert noise.std() / 255 == pytest.approx(0.12, rel=0.03)
    assert abs(noise.mean()) < 1


def test_impulse_noise_is_five_per_cent_salt_and_pepper_in_equal_parts():
    corrupted = np.concatenate(
        [corrupt_reply(flat(128), "impulse-noise", seed=s) for s in range(10)]
    )
    assert (corrupted == 255).mean() == pytest.approx(0.025, rel=0.1)
    assert (corrupted == 0).mean() == pytest.approx(0.025, rel=0.1)
    assert set(np.unique(corrupted)) == {0, 128, 255}


def test_gaussian_blur_spreads_a_point_by_one_pixel():
    image = flat(0, 1, 33)
    image[16, 16] = 255
    corrupted = corrupt_reply(image, "gaussian-blur")[..., 0].astype(float)
    offset = np.arange(33) - 16
    variance = (corrupted.sum(axis=0) * offset**2).sum() / corrupted.sum()
    assert variance == pytest.approx(1, rel=0.1)


def test_defocus_spreads_a_point_over_a_disk_of_radius_one_and_a_half():
    image = flat(0, 1, 33)
    image[16, 16] = 255
    corrupted = corrupt_reply(image, "defocus-blur")[14:19, 14:19, 0]
    assert np.array_equal(corrupted > 0, np.pad(np.ones((3, 3), bool), 1))  # pixels within 1.5
    assert np.unique(corrupted[1:4, 1:4]).tolist() == [round(255 / 9)]


def test_blurs_leave_a_flat_image_alone():
    for name in ("gaussian-blur", "defocus-blur", "elastic", "contrast"):
        assert (corrupt_reply(flat((40, 90, 200)), name) == flat((40, 90, 200))).all()


def test_elastic_without_displacement_only_moves_pixels():
    image = smooth_image(64, 64)
    corrupted = corrupt_reply(image, "elastic", 1)
    assert corrupted.mean() == pytest.approx(image.mean(), rel=0.1)
    assert corrupted.max() <= image.max()  # bilinear: no new extremes
    assert corrupted.min() >= image.min()


def test_spatter_of_water_only_adds_light_and_mud_goes_towards_brown():
    grey = flat(60)
    water = corrupt_reply(grey, "spatter", 3).astype(int) - 60
    assert water.min() == 0
    assert water.max() == pytest.approx(0.6 * 238, abs=2)
    wet = water[..., 1] > 20
    assert water[..., 0][wet] / water[..., 1][wet] == pytest.approx(175 / 238, abs=0.05)
    mud = corrupt_reply(grey, "spatter", 5)
    assert (mud == 60).any()
    assert (np.abs(mud[..., 2].astype(int) - 20) < 10).any()


def test_a_client_keeps_its_corruption_and_every_image_its_own_noise():
    shift = Corruptions(3)
    assert [shift.change(d) for d in range(12)] == [*CORRUPTIONS, "spatter", "elastic"]
    image = smooth_image()
    one = shifted(image, shift, 4, 7, 1)
    assert np.array_equal(one, shifted(image, shift, 4, 7, 1))
    for client, number, seed in ((14, 7, 1), (4, 8, 1), (4, 7, 2)):
        assert not np.array_equal(one, shifted(image, shift, client, number, seed))
    everywhere = OneCorruption("jpeg", 5)
    assert {everywhere.change(d) for d in range(12)} == {"jpeg"}
