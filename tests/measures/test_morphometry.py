"""The measure ``morphometry`` on drawn strokes whose readings are known.

Oblique edges are drawn as ramps: bilinear interpolation is exact for linear functions, so that the cut at 0
lies on the drawn edge, and what is left of error is that of sampling it every quarter of a pixel.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.measure import euler_number, label, moments_central

from turningpoint.errors import TurningpointError
from turningpoint.measures import measure
from turningpoint.measures.morphometry import clean, stroke

LENGTHS = ("thickness", "slant", "height", "width")
Y, X = np.mgrid[:28, :28] - 13.5


def read(*images: np.ndarray) -> dict[str, np.ndarray]:
    return measure("morphometry").read(torch.from_numpy(np.stack(images)).float()[:, None])


def box(top: int, left: int, height: int, width: int, side: int = 28) -> np.ndarray:
    image = -np.ones((side, side))
    image[top : top + height, left : left + width] = 1
    return image


def ring(radius: float, thickness: float, y: float = 0, x: float = 0) -> np.ndarray:
    return np.clip((thickness / 2 - np.abs(np.hypot(Y - y, X - x) - radius)) / 4, -1, 1)


def random_strokes(seed: int) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(22, 22)), 1.3)
    return np.pad(field / np.abs(field).max() - 0.1, 3, constant_values=-1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 8), st.integers(0, 8), st.integers(2, 20), st.integers(2, 20))
def test_boxes_are_exact(top, left, height, width):
    found = read(box(top, left, height, width))
    assert found["height"][0] == height
    assert found["width"][0] == width
    assert abs(found["slant"][0]) < 1e-6
    assert found["mass"][0] == height * width
    assert found["holes"][0] == 0


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("lying", [False, True])
def test_thickness_of_bars(width, lying):
    # With W and L the enlarged sides, the skeleton is one pixel per row, L - W at least; all have distance
    # W / 2 to the ground, except k = 1, 2, ... in the W / 2 rows at each end.
    image = box(4, 12, 20, width)
    found = read(image.T if lying else image)["thickness"][0]
    assert width - width * (2 * width - 1) / (4 * (20 - width)) <= found <= width


@settings(max_examples=40, deadline=None)
@given(st.floats(-25, 25), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_sheared_bars(degrees, down, right):
    height, width = 20.0, 6.0
    shear = np.tan(np.radians(degrees))
    v, u = Y - down, X - right
    inside = np.minimum(height / 2 - np.abs(v), width / 2 - np.abs(u + shear * v))
    found = read(np.clip(inside / 8, -1, 1))
    assert abs(found["height"][0] - height) <= 1 / 4 + 1e-5
    # The middle of a row errs by 1/8 from sampling both ends, and near corners, where the drawn function
    # has a kink, by half of what interpolation loses there: at most a quarter of the gradient's jump,
    # (1, 1 + |shear|).  The slope of a fit through rows whose middles err by e errs by
    # e sum |v| / sum v^2 = 3 e / height, times the ratio of the rows' lengths.
    error = 1 / 8 + np.hypot(1, 1 + abs(shear)) / 8
    allowed = 3 * error / height * (width + 1 / 4) / (width - 1 / 4 - 2 * error)
    off = np.tan(np.radians(found["slant"][0])) - shear
    assert abs(off) <= allowed
    assert width - 1 / 4 - 1e-5 <= found["width"][0] <= width + 1 / 4 + abs(off) * height + 1e-5
    assert found["holes"][0] == 0


def test_a_stroke_that_leans_right_has_positive_slant():
    slash = np.clip((2 - np.abs(X + 0.5 * Y)) / 4, -1, 1)
    assert slash[4, 19] > 0 > slash[4, 8]
    assert read(slash)["slant"][0] > 0 > read(slash[:, ::-1])["slant"][0]


@pytest.mark.parametrize(("radius", "thickness"), [(6, 3), (7, 3.5), (8, 4), (7.3, 5)])
def test_rings(radius, thickness):
    found = read(ring(radius, thickness))
    # Bilinear interpolation errs by 1/8 of the second derivatives along both axes; those of the distance
    # r from the middle are at most 1 / r, and a cell reaches less than 1.5 inwards of its edge.
    edge = 1 / (4 * (radius - thickness / 2 - 1.5))
    # The skeleton lies within one enlarged pixel of the middle; the next ground within sqrt(2) of the edge.
    assert thickness - 2 * edge - 2 / 4 <= found["thickness"][0] <= thickness + 2 * edge + 2 * np.sqrt(2) / 4
    for name in ("height", "width"):
        assert abs(found[name][0] - (2 * radius + thickness)) <= 1 / 4 + 2 * edge
    # A ring is its own mirror image.
    assert abs(found["slant"][0]) < 1e-4
    assert found["holes"][0] == 1


def test_holes():
    two = np.maximum(ring(4.5, 3, -5), ring(4.5, 3, 5))
    apart = np.maximum(ring(3.5, 2.5, -7, -7), ring(3.5, 2.5, 7, 7))
    pinhole, speck, corner = box(4, 4, 12, 12), box(4, 4, 12, 12), box(4, 4, 12, 12)
    pinhole[8, 8] = -1
    speck[22, 22] = 1
    corner[16:20, 16:20] = 1
    framed = box(0, 0, 28, 28)
    framed[10:18, 10:18] = -1
    found = read(box(4, 4, 20, 3), ring(7, 4), two, apart, pinhole, speck, corner, framed)
    assert found["holes"].tolist() == [0, 1, 2, 2, 0, 0, 0, 1]
    assert found["holes"].dtype == np.int64
    assert found["height"][5] == 12


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_holes_and_slant_are_scikit_images(seed):
    image = random_strokes(seed)
    found = read(image)
    mask, holes = clean(stroke(torch.from_numpy(image)[None, None])[0])
    pieces = label(mask, connectivity=2).max()
    assert found["holes"][0] == holes == pieces - euler_number(mask, connectivity=2)
    moments = moments_central(mask.astype(float), order=2)
    spread = moments[2, 0] + moments[0, 0] / 12
    assert found["slant"][0] == pytest.approx(np.degrees(np.arctan(-moments[1, 1] / spread)), abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-3, 3), st.integers(-3, 3))
def test_translation_changes_nothing(seed, down, right):
    image = random_strokes(seed)
    found = read(image, np.roll(image, (down, right), (0, 1)))
    for name, values in found.items():
        np.testing.assert_allclose(values[1], values[0], rtol=1e-5, err_msg=name)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_mirror_images_lean_the_other_way(seed):
    image = np.where(random_strokes(seed) > 0, 1.0, -1.0)
    found = read(image, image[:, ::-1], image[::-1])
    for name in ("mass", "height", "width", "holes"):
        np.testing.assert_allclose(found[name][1:], found[name][0], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(found["slant"][1:], -found["slant"][0], atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1))
def test_contrast_about_the_cut_changes_only_the_mass(seed, contrast):
    image = np.where(random_strokes(seed) > 0, 1.0, -1.0)
    found = read(image, contrast * image)
    for name in (*LENGTHS, "holes"):
        np.testing.assert_array_equal(found[name][1], found[name][0])
    assert found["mass"][1] == pytest.approx(contrast * found["mass"][0] + 784 * (1 - contrast) / 2, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(2, 4))
def test_lengths_scale_with_the_image(height, width, scale):
    image = box(4, 4, height, width)
    small, large = read(image), read(np.kron(image, np.ones((scale, scale))))
    for name, power in (("height", 1), ("width", 1), ("mass", 2), ("slant", 0)):
        assert large[name][0] == pytest.approx(small[name][0] * scale**power)


def test_no_stroke():
    lone = -np.ones((28, 28))
    lone[5, 5] = 1
    for empty in (-np.ones((28, 28)), np.full((28, 28), -0.1), lone):
        found = read(empty, box(4, 4, 9, 3))
        assert found["holes"].tolist() == [-1, 0]
        for name in ("mass", *LENGTHS):
            assert np.isnan(found[name][0])
            assert np.isfinite(found[name][1])


def test_batches_and_channels():
    images = torch.from_numpy(np.stack([random_strokes(seed) for seed in range(300)])).float()[:, None]
    morphometry = measure("morphometry")
    whole = morphometry.read(images)
    assert list(whole) == [reading.name for reading in morphometry.readings]
    for name, values in morphometry.read(images[290:].expand(-1, 3, -1, -1)).items():
        np.testing.assert_allclose(values, whole[name][290:], rtol=1e-4, err_msg=name)


def test_vectors_get_a_sentence():
    with pytest.raises(
        TurningpointError, match=r"measure is 'morphometry', but the batch has shape \(2, 7\)"
    ):
        measure("morphometry").read(torch.zeros(2, 7))
