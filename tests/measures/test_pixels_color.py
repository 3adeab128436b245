"""The measures ``pixels`` and ``color`` against NumPy and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2gray

from turningpoint.errors import TurningpointError
from turningpoint.measures import MEASURES, measure
from turningpoint.measures.color import root_histogram
from turningpoint.measures.pixels import luminance

SEEDS = st.integers(0, 2**32 - 1)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_registered():
    assert {"pixels", "color", "frequency", "morphometry"} <= set(MEASURES.names())


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (3, 40), (3, 1, 7)])
def test_pixels_are_the_numbers_in_order(shape):
    images = noise(0, *shape)
    pixels = measure("pixels")
    assert [reading.kind for reading in pixels.readings] == ["vector"]
    assert pixels.feature(pixels.readings[0]) == "pixels"
    np.testing.assert_array_equal(pixels.read(images)[""], images.numpy().reshape(3, -1))


def test_pixels_stay_when_the_batch_is_overwritten():
    images = torch.zeros(1, 1, 2, 2)
    found = measure("pixels").read(images)[""]
    images.fill_(1)
    assert (found == 0).all()


def test_readings_have_the_declared_names_and_kinds():
    color = measure("color")
    found = color.read(noise(1, 4, 3, 8, 8))
    assert list(found) == [reading.name for reading in color.readings] == ["mean", "contrast", "histogram"]
    assert [reading.kind for reading in color.readings] == ["vector", "scalar", "vector"]
    assert [values.shape for values in found.values()] == [(4, 3), (4,), (4, 48)]
    assert color.settings() == {"bins": 16}


@pytest.mark.parametrize("value", [-1.0, -0.3, 0.01, 1.0])
def test_constant_images(value):
    found = measure("color").read(torch.full((2, 3, 8, 8), value))
    np.testing.assert_allclose(found["mean"], value, rtol=1e-6)
    # A mean of 64 equal float32 numbers errs by at most 64 units in the last place.
    np.testing.assert_allclose(found["contrast"], 0, atol=64 * 2**-23)
    expected = np.zeros(16)
    expected[min(int((value + 1) * 8), 15)] = 1
    np.testing.assert_array_equal(found["histogram"], np.tile(expected, (2, 3)))


def test_half_black_half_white_has_contrast_one():
    images = torch.ones(1, 3, 6, 6)
    images[..., :3] = -1
    assert measure("color").read(images)["contrast"] == pytest.approx(1, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 20), st.sampled_from([1, 3, 4]))
def test_histogram_is_numpys(seed, bins, channels):
    images = 1.3 * noise(seed, 2, channels, 9, 5)
    found = root_histogram(images, bins).numpy() ** 2
    for item, channel in np.ndindex(2, channels):
        values = images[item, channel].clamp(-1, 1).numpy()
        counts = np.histogram(values.astype(np.float64), bins, range=(-1, 1))[0]
        np.testing.assert_allclose(found[item, channel], counts / 45, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_distance_of_histograms_is_hellingers(seed):
    a, b = (measure("color").read(noise(seed + k, 1, 1, 8, 8) ** (1 + 2 * k))["histogram"][0] for k in (0, 1))
    shares = a.astype(float) ** 2, b.astype(float) ** 2
    hellinger = np.sqrt(max(1 - np.sqrt(shares[0] * shares[1]).sum(), 0))
    assert np.linalg.norm(a - b) == pytest.approx(np.sqrt(2) * hellinger, abs=1e-3)
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-6)


def test_opposite_images_are_as_far_apart_as_can_be():
    dark, bright = (measure("color").read(torch.full((1, 3, 4, 4), v))["histogram"] for v in (-1.0, 1.0))
    assert np.linalg.norm(dark - bright) == pytest.approx(np.sqrt(2 * 3), abs=1e-6)


def test_luminance_is_scikit_images():
    images = noise(2, 3, 3, 8, 8)
    expected = rgb2gray(images.numpy(), channel_axis=1)
    # Its weights are 0.2125, 0.7154, 0.0721: they differ by at most 4e-4 altogether.
    np.testing.assert_allclose(luminance(images).numpy(), expected, atol=4.1e-4)
    found = measure("color").read(images)["contrast"]
    np.testing.assert_allclose(found, expected.std((1, 2)), atol=4.1e-4)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(0, 7), st.integers(0, 7))
def test_color_does_not_see_where(seed, down, right):
    images = noise(seed, 2, 3, 8, 8)
    moved = measure("color").read(images.roll((down, right), (2, 3)))
    for name, values in measure("color").read(images).items():
        np.testing.assert_allclose(moved[name], values, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(-0.5, 0.5), st.floats(0.1, 1))
def test_mean_and_contrast_are_linear_in_the_values(seed, shift, scale):
    images = noise(seed, 2, 3, 8, 8)
    before, after = measure("color").read(images), measure("color").read(scale * images + shift)
    np.testing.assert_allclose(after["mean"], scale * before["mean"] + shift, atol=1e-6)
    np.testing.assert_allclose(after["contrast"], scale * before["contrast"], atol=1e-6)


def test_mistakes_get_a_sentence():
    with pytest.raises(TurningpointError, match=r"bins is 0; accepted: a positive integer\."):
        measure("color?bins=0")
    with pytest.raises(TurningpointError, match=r"measure is 'color', but the batch has shape \(2, 7\)"):
        measure("color").read(torch.zeros(2, 7))
    with pytest.raises(TurningpointError, match="settings"):
        measure("pixels", size=3)
