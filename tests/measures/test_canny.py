"""Sobel derivatives and Canny edges of batches against OpenCV, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kornia.filters import spatial_gradient
from natural_images import SIZES, natural_images, natural_tensors
from scipy.ndimage import binary_dilation

from turningpoint.measures._canny import edges, near, sobel
from turningpoint.measures._grey import grey, levels

GOLDEN = Path(__file__).parent / "golden" / "denoisefeat"
PICTURES = sorted(json.loads((GOLDEN / "denoisefeat.json").read_text())["scalars"])


def batch(image: np.ndarray) -> torch.Tensor:
    """8-bit pixels (H, W) or (H, W, C) as levels (1, C, H, W)."""
    return torch.from_numpy(np.atleast_3d(image).transpose(2, 0, 1)[None].astype(np.float32))


def found(pixels: torch.Tensor, low: float = 100, high: float = 200) -> np.ndarray:
    return edges(*sobel(pixels), low, high).numpy()


@pytest.mark.parametrize("size", [*SIZES, 28, 131])
@pytest.mark.parametrize("thresholds", [(100, 200), (50, 100), (0, 0), (30.5, 400.2)])
def test_edges_of_photographs_are_opencvs(size, thresholds):
    color, images = levels(natural_tensors(size)), natural_images(size)
    expected = np.stack([cv2.Canny(image, *thresholds) for image in images])
    np.testing.assert_array_equal(found(color, *thresholds), expected == 255)
    assert expected.any()
    greys = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images])
    expected = np.stack([cv2.Canny(one, *thresholds) for one in greys])
    np.testing.assert_array_equal(found(grey(color)[:, None], *thresholds), expected == 255)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    channels=st.sampled_from([1, 3]),
    values=st.sampled_from([2, 3, 8, 60, 256]),
    thresholds=st.lists(st.integers(0, 1500), min_size=2, max_size=2).map(sorted),
)
def test_edges_of_noise_of_any_shape_are_opencvs(seed, size, channels, values, thresholds):
    # Few values make many equal gradients: rules for equals are used all the time.
    pixels = np.random.default_rng(seed).integers(0, values, (*size, channels)) * (255 // (values - 1))
    image = pixels.astype(np.uint8)
    expected = cv2.Canny(image if channels == 3 else image[..., 0].copy(), *thresholds)
    np.testing.assert_array_equal(found(batch(image), *thresholds)[0], expected == 255)


@pytest.mark.parametrize("name", PICTURES)
def test_golden_edges(name):
    with np.load(GOLDEN / "denoisefeat_expected.npz") as golden:
        image, expected = golden[f"{name}/image"], golden[f"{name}/canny"]
    edge = found(batch(image))[0]
    np.testing.assert_array_equal(255 * edge, expected)
    scalars = json.loads((GOLDEN / "denoisefeat.json").read_text())["scalars"][name]
    assert 255 * edge.sum() / edge.size == scalars["edge_density"]


def test_a_chain_of_weak_pixels_is_kept_by_one_strong_pixel_in_its_own_image():
    weak = torch.zeros(1, 1, 9, 9)
    weak[..., 4:] = 40  # a gradient of 160: between the thresholds
    assert not found(weak).any()
    strong = weak.clone()
    strong[..., 0, 4:] = 255
    together = found(torch.cat([strong, weak, strong, weak]))
    np.testing.assert_array_equal(together[0], cv2.Canny(strong[0, 0].byte().numpy(), 100, 200) == 255)
    assert together[0, -1].any()
    assert not together[[1, 3]].any()


def test_an_image_without_edges_has_none():
    assert not found(torch.full((2, 3, 8, 8), 77.0)).any()


@pytest.mark.parametrize("size", SIZES)
def test_sobel_is_opencvs_and_kornias(size):
    pixels = levels(natural_tensors(size))
    dx, dy = sobel(pixels)
    replicate = {"ksize": 3, "borderType": cv2.BORDER_REPLICATE}
    for k, image in enumerate(natural_images(size)):
        for derivative, order in ((dx, (1, 0)), (dy, (0, 1))):
            expected = cv2.Sobel(image, cv2.CV_16S, *order, **replicate)
            np.testing.assert_array_equal(derivative[k].permute(1, 2, 0).numpy(), expected)
    across, down = (8 * spatial_gradient(pixels.double())).unbind(2)  # kornia divides by the weights' sum
    torch.testing.assert_close(dx.double(), across, atol=1e-9, rtol=0)
    torch.testing.assert_close(dy.double(), down, atol=1e-9, rtol=0)


def test_near_is_a_dilation():
    truth = torch.rand(5, 7, 11, generator=torch.Generator().manual_seed(0)) < 0.1
    expected = [binary_dilation(one, np.ones((3, 3), bool)) for one in truth.numpy()]
    np.testing.assert_array_equal(near(truth).numpy(), expected)
