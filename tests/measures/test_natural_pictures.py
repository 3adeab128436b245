"""Bands, gain and colour of natural photographs, against float64 NumPy written from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from natural_images import SIZES, natural_images, natural_tensors

from turningpoint.measures import measure

EPS = np.finfo(np.float32).eps


def spectra(images):
    """The orthonormal DFT of each channel, and the radial frequency in cycles per image."""
    size = images.shape[-1]
    cycles = np.fft.fftfreq(size, 1 / size)
    return np.fft.fft2(images.astype(np.float64), norm="ortho"), np.hypot(cycles[:, None], cycles)


def bands(radius, count):
    inner = (radius.shape[0] / 2) ** (np.arange(1, count) / count)
    return np.searchsorted(inner * (1 - 1e-9), radius, side="right")


@pytest.fixture(scope="module", params=SIZES)
def photographs(request):
    assert len(natural_images(request.param)) >= 20
    return natural_tensors(request.param)


def test_energy_content_and_phase_of_bands(photographs):
    x, radius = spectra(photographs.numpy())
    other = photographs.flip(0)
    y, _ = spectra(other.numpy())
    found, one = measure("frequency").read(photographs), bands(radius, 5)
    pairs = measure("frequency").compare(photographs, other)
    # rounding of a float32 FFT grows with the logarithm of its length and with the largest coefficient
    rounding = 8 * EPS * np.log2(photographs[0].numel()) * np.abs(x).max()
    for b in range(5):
        inside = one == b
        power = (np.abs(x[..., inside]) ** 2).mean((1, 2))
        np.testing.assert_allclose(10 ** found[f"energy{b}"], power, rtol=1e-4)
        np.testing.assert_allclose(
            (found[f"band{b}"].astype(np.float64) ** 2).sum(1), power * inside.sum() * 3, rtol=1e-4
        )
        inside = inside & (radius > 0)
        cross = (x[..., inside] * y[..., inside].conj()).real.sum((1, 2))
        largest = np.abs(x[..., inside] * y[..., inside]).sum((1, 2))
        slack = rounding * (np.abs(x[..., inside]) + np.abs(y[..., inside])).sum((1, 2)) / largest
        assert (abs(pairs[f"phase{b}"] - cross / largest) <= np.maximum(slack, 1e-5)).all()


def test_moments_of_bands_for_the_gain(photographs):
    noisy = 0.8 * photographs + 0.6 * torch.randn(
        photographs.shape, generator=torch.Generator().manual_seed(0)
    )
    x, radius = spectra(noisy.numpy())
    y, _ = spectra(photographs.numpy())
    found, one = measure("gain").compare(noisy, photographs), bands(radius, 5)
    for b in range(5):
        inside = one == b
        cross = (y[..., inside] * x[..., inside].conj()).real.mean((1, 2))
        inputs = (np.abs(x[..., inside]) ** 2).mean((1, 2))
        np.testing.assert_allclose(found[f"input{b}"], inputs, rtol=1e-4)
        np.testing.assert_allclose(found[f"cross{b}"], cross, rtol=1e-3, atol=1e-5 * inputs.max())


def test_colour(photographs):
    x = photographs.numpy().astype(np.float64)
    found = measure("color").read(photographs)
    np.testing.assert_allclose(found["mean"], x.mean((2, 3)), atol=1e-6)
    luminance = np.tensordot([0.2126, 0.7152, 0.0722], x, (0, 1))
    np.testing.assert_allclose(found["contrast"], luminance.std((1, 2)), rtol=1e-5)
    levels = np.floor((x + 1) * 8).clip(0, 15).astype(int)
    for image, roots in zip(levels, found["histogram"].reshape(len(x), 3, 16), strict=True):
        shares = [np.bincount(channel.ravel(), minlength=16) / channel.size for channel in image]
        np.testing.assert_allclose(roots**2, shares, atol=2 / levels[0, 0].size)
