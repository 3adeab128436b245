"""Levels, greys, entropy and Otsu's thresholds of batches against OpenCV and scikit-image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from natural_images import SIZES, natural_images, natural_tensors
from skimage.filters import threshold_otsu
from skimage.measure import shannon_entropy

from turningpoint.measures._grey import entropy, grey, histogram, levels, otsu

GOLDEN = Path(__file__).parent / "golden" / "denoisefeat" / "denoisefeat_expected.npz"


def opencv_greys(size: int) -> np.ndarray:
    return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in natural_images(size)])


@pytest.mark.parametrize("size", SIZES)
def test_levels_of_photographs_are_their_pixels(size):
    np.testing.assert_array_equal(
        levels(natural_tensors(size)).permute(0, 2, 3, 1).numpy(), natural_images(size)
    )


def test_levels_round_and_clip():
    values = torch.tensor([-7.0, -1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 0.999, 1.0, 1.3])
    assert levels(values).tolist() == [0, 0, 0, 1, 255, 255, 255]


@pytest.mark.parametrize("size", SIZES)
def test_greys_of_photographs_are_opencvs(size):
    np.testing.assert_array_equal(grey(levels(natural_tensors(size))).numpy(), opencv_greys(size))


def test_greys_of_all_kinds_of_colors_are_opencvs():
    steps = np.concatenate([np.arange(0, 256, 5), np.arange(1, 256, 51), [254]]).astype(np.uint8)
    colors = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, len(steps), 3)
    pixels = torch.from_numpy(colors.transpose(2, 0, 1)[None].astype(np.float32))
    np.testing.assert_array_equal(grey(pixels)[0].numpy(), cv2.cvtColor(colors, cv2.COLOR_RGB2GRAY))


def test_golden_greys():
    with np.load(GOLDEN) as golden:
        names = [key.partition("/")[0] for key in golden if key.endswith("/gray")]
        assert names
        for name in names:
            pixels = torch.from_numpy(golden[f"{name}/image"].transpose(2, 0, 1)[None].astype(np.float32))
            np.testing.assert_array_equal(grey(pixels)[0].numpy(), golden[f"{name}/gray"])


def test_other_numbers_of_channels():
    pixels = torch.tensor([[10.0, 21.0, 30.0, 40.0]])[:, :, None, None]
    assert grey(pixels).item() == 25
    assert grey(pixels[:, 1:2]).item() == 21


@pytest.mark.parametrize("size", SIZES)
def test_entropy_of_photographs_is_scikit_images(size):
    greys = opencv_greys(size)
    counts = histogram(torch.from_numpy(greys).float())
    np.testing.assert_array_equal(counts, [np.bincount(one.ravel(), minlength=256) for one in greys])
    expected = [shannon_entropy(one, base=2) for one in greys]
    # A sum of 256 terms, 8 at most, in float32.
    np.testing.assert_allclose(entropy(counts), expected, rtol=0, atol=256 * 8 * 2**-24)


@pytest.mark.parametrize("size", SIZES)
def test_otsus_threshold_of_photographs_is_scikit_images(size):
    greys = opencv_greys(size)
    expected = [threshold_otsu(one) for one in greys]
    np.testing.assert_array_equal(otsu(histogram(torch.from_numpy(greys).float())), expected)
    assert len(set(expected)) > 10


@given(
    seed=st.integers(0, 2**32 - 1),
    values=st.lists(st.integers(0, 255), min_size=1, max_size=6),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_otsus_threshold_of_few_greys_is_scikit_images(seed, values, size):
    # Few greys leave gaps, in which all thresholds are equally good, and images of one grey.
    image = np.random.default_rng(seed).choice(np.array(values, np.uint8), size)
    assert otsu(histogram(torch.from_numpy(image)[None].float())).item() == threshold_otsu(image)
