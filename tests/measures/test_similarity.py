"""SSIM and MS-SSIM of batches against scikit-image, kornia and the definition in NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kornia.metrics import ssim as kornia_ssim
from natural_images import SIZES, natural_tensors
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from turningpoint.measures._similarity import WEIGHTS, scales, similarities

# The second moments of values up to about 1 are rounded to 2^-24 in float32; a window's variance is their
# difference, beside 0.06^2. The mean over the image is no worse than its worst place.
ROUNDING = 4 * 2**-24 / 0.06**2
SETTINGS = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2}


def pairs(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The photographs, and each of them spoilt in one of four ways, some beyond [-1, 1]."""
    a = natural_tensors(size)
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(size))
    spoilt = [a + 0.2 * noise, 0.5 * a - 0.2, a.roll(1, 3), -a.flip(2)]
    return a, torch.stack([spoilt[k % 4][k] for k in range(len(a))])


def slow_factors(a: np.ndarray, b: np.ndarray, reach: int) -> tuple[float, float]:
    """Means of l c and of c for two greys, by SciPy's Gaussian filter."""

    def mean(x: np.ndarray) -> np.ndarray:
        averaged = gaussian_filter(x, 1.5, truncate=(reach + 0.25) / 1.5)
        return averaged[reach : x.shape[0] - reach, reach : x.shape[1] - reach]

    c1, c2 = 0.02**2, 0.06**2
    mean_a, mean_b = mean(a), mean(b)
    covariance = mean((a - a.mean()) * (b - b.mean())) - (mean_a - a.mean()) * (mean_b - b.mean())
    variances = [mean((x - x.mean()) ** 2) - (mean(x) - x.mean()) ** 2 for x in (a, b)]
    c = (2 * covariance + c2) / (sum(variances) + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return float((luminance * c).mean()), float(c.mean())


def slow_msssim(a: np.ndarray, b: np.ndarray, count: int) -> float:
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:count]
    weights = weights / weights.sum()
    product = 1.0
    for scale, weight in enumerate(weights):
        whole, structure = slow_factors(a, b, 5)
        product *= max(whole if scale == count - 1 else structure, 0) ** weight
        a, b = (
            x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
            .reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2)
            .mean((1, 3))
            for x in (a, b)
        )
    return product


@pytest.mark.parametrize("size", [*SIZES, 11, 28])
def test_ssim_of_photographs_is_scikit_images_and_kornias(size):
    a, b = pairs(size)
    found = similarities(a, b)[0].numpy()
    expected = [
        structural_similarity(*pair, channel_axis=0, **SETTINGS)
        for pair in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)
    assert np.ptp(found) > 0.5
    kornias = kornia_ssim(a.double(), b.double(), 11, 2.0, padding="valid").mean((1, 2, 3))
    np.testing.assert_allclose(found, kornias, rtol=0, atol=ROUNDING)


def test_ssim_of_grey_images_that_are_not_square_is_scikit_images():
    a, b = (x[:, :1, :, :50] for x in pairs(96))
    found = similarities(a, b)[0].numpy()
    expected = [
        structural_similarity(*pair, **SETTINGS)
        for pair in zip(a[:, 0].double().numpy(), b[:, 0].double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("side", "reach"), [(3, 1), (4, 1), (8, 3), (10, 4)])
def test_small_images_have_the_largest_odd_window_that_fits(side, reach):
    a, b = (x[:, :, 20 : 20 + side, 10:30] for x in pairs(45))
    ssim, msssim = similarities(a, b)
    expected = [
        np.mean([slow_factors(*channel, reach)[0] for channel in zip(*pair, strict=True)])
        for pair in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    np.testing.assert_allclose(ssim, expected, rtol=0, atol=ROUNDING)
    assert (msssim >= ssim - ROUNDING).all()


@pytest.mark.parametrize(("size", "count"), [(28, 2), (45, 3), (64, 3), (96, 4), (177, 5)])
def test_msssim_of_photographs_is_the_definition(size, count):
    a, b = pairs(size)
    if size == 177:
        a, b = a[::3], b[::3]
    assert len(scales(size)) == count
    found = similarities(a, b)[1].numpy()
    expected = [
        np.mean([slow_msssim(*channel, count) for channel in zip(*pair, strict=True)])
        for pair in zip(a.double().numpy(), b.double().numpy(), strict=True)
    ]
    # A power of a factor near 0 amplifies its rounding: d(x^w) = w x^(w - 1) dx, at most dx^w.
    np.testing.assert_allclose(found, expected, rtol=0, atol=10 * ROUNDING)
    assert np.ptp(found) > 0.5


@pytest.mark.parametrize(
    ("side", "count"),
    [(3, 1), (8, 1), (21, 1), (22, 2), (43, 2), (44, 3), (87, 3), (88, 4), (175, 4), (176, 5), (999, 5)],
)
def test_scales(side, count):
    weights = scales(side)
    assert len(weights) == count
    assert sum(weights) == pytest.approx(1)
    np.testing.assert_allclose(weights, np.array(WEIGHTS[:count]) / sum(WEIGHTS[:count]))


def test_equal_images_are_alike_and_order_does_not_matter():
    a, b = pairs(45)
    for same in similarities(a, a):
        np.testing.assert_allclose(same, 1, rtol=0, atol=ROUNDING)
    for there, back in zip(similarities(a, b), similarities(b, a), strict=True):
        np.testing.assert_allclose(there, back, rtol=0, atol=ROUNDING)
        assert (there <= 1 + ROUNDING).all()


def test_more_noise_is_less_alike():
    a = natural_tensors(64)
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(1))
    means = torch.tensor(
        [[x.mean() for x in similarities(a, a + sigma * noise)] for sigma in (0.05, 0.2, 0.8)]
    )
    assert (means.diff(dim=0) < 0).all()


def test_msssim_is_never_negative():
    a = natural_tensors(32)
    ssim, msssim = similarities(a, -a)
    assert (ssim < 0).any()
    assert (msssim >= 0).all()
