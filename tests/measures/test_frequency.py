"""The measure ``frequency`` against ``numpy.fft`` and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from turningpoint.errors import TurningpointError
from turningpoint.measures import measure
from turningpoint.measures.frequency import FLOOR, band_pass, layout

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.sampled_from([(28, 28), (16, 16), (15, 15), (16, 12), (9, 14), (32, 17)])


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Model:
    def __init__(self, *shape: int) -> None:
        self.shape = shape


def numpy_bands(height: int, width: int, bands: int) -> np.ndarray:
    """To which band each coefficient of the whole plane belongs, straight from the definition."""
    shorter = min(height, width)
    rows = np.minimum(np.arange(height), height - np.arange(height)) * shorter / height
    columns = np.minimum(np.arange(width), width - np.arange(width)) * shorter / width
    radius = np.sqrt(rows[:, None] ** 2 + columns**2)
    with np.errstate(divide="ignore"):
        position = bands * np.log(radius) / np.log(shorter / 2)
    return np.clip(np.floor(position + 1e-9), 0, bands - 1).astype(int)


@settings(max_examples=30, deadline=None)
@given(SEEDS, SIZES, st.integers(1, 4))
def test_bands_are_those_of_numpy_and_sum_to_the_image(seed, size, bands):
    images = noise(seed, 2, 3, *size)
    passed = band_pass(images, bands)
    assert passed.shape == (bands, 2, 3, *size)
    torch.testing.assert_close(passed.sum(0), images, atol=1e-5, rtol=0)
    belongs = numpy_bands(*size, bands)
    spectrum = np.fft.fft2(images.double().numpy())
    for b in range(bands):
        expected = np.fft.ifft2(spectrum * (belongs == b))
        np.testing.assert_allclose(expected.imag, 0, atol=1e-12)
        np.testing.assert_allclose(passed[b].numpy(), expected.real, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(SEEDS, SIZES, st.integers(1, 4))
def test_distances_are_those_of_the_band_passed_images(seed, size, bands):
    a, b = noise(seed, 2, 3, *size), noise(seed + 1, 2, 3, *size)
    frequency = measure("frequency", bands=bands)
    first, second = frequency.read(a), frequency.read(b)
    apart = (band_pass(a, bands) - band_pass(b, bands)).double().flatten(2).norm(dim=2).numpy()
    for k in range(bands):
        found = np.linalg.norm((first[f"band{k}"] - second[f"band{k}"]).astype(float), axis=1)
        np.testing.assert_allclose(found, apart[k], rtol=1e-5)
    numbers = sum(first[f"band{k}"].shape[1] for k in range(bands))
    assert 0 <= numbers - 3 * size[0] * size[1] <= 3 * 4


@settings(max_examples=40, deadline=None)
@given(SIZES, st.data())
def test_a_sinusoid_falls_in_its_band(size, data):
    height, width = size
    row = data.draw(st.integers(0, height // 2))
    column = data.draw(st.integers(0, width // 2))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wave = torch.cos(2 * torch.pi * (row * y / height + column * x / width))[None, None]
    frequency = measure("frequency", bands=4)
    found = frequency.read(wave.float())
    total = float(wave.square().sum())
    for b in range(4):
        share = float((found[f"band{b}"].astype(float) ** 2).sum()) / total
        assert share == pytest.approx(float(b == numpy_bands(height, width, 4)[row, column]), abs=1e-5)


@pytest.mark.parametrize("row_sign", [1, -1])
def test_both_diagonals_count(row_sign):
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    wave = torch.sin(2 * torch.pi * (3 * row_sign * y + 2 * x) / 16)[None, None]
    found = measure("frequency", bands=1).read(wave)
    assert float((found["band0"] ** 2).sum()) == pytest.approx(128, rel=1e-5)


@pytest.mark.parametrize("side", [8, 28, 32, 64, 256])
def test_edges(side):
    edges = layout(side, side, 5 if side > 8 else 3).edges
    inner = np.array(edges[1:-1])
    ratio = (side / 2) ** (1 / (len(edges) - 1))
    np.testing.assert_allclose(inner[1:] / inner[:-1], ratio)
    assert edges[0] == 0
    assert inner[0] == pytest.approx(ratio)
    assert edges[-1] == pytest.approx(side / np.sqrt(2))


def test_a_frequency_on_an_edge_belongs_to_the_band_above():
    # 32 ** (2 / 5) is 4 but for rounding.
    layout_of_64 = layout(64, 64, 5)
    assert [int(layout_of_64.band[k, 0]) for k in (0, 1, 2, 3, 4, 8, 16, 32)] == [0, 0, 1, 1, 2, 3, 4, 4]


def test_energy_of_white_noise_is_its_variance():
    items, sigma = 400, 0.3
    found = measure("frequency").read(sigma * noise(3, items, 1, 28, 28))
    belongs = numpy_bands(28, 28, 5)
    for b in range(5):
        power = 10.0 ** found[f"energy{b}"].astype(float)
        # A mean over n independent squares of normal numbers; conjugates come in pairs, hence at least n / 2.
        independent = items * (belongs == b).sum() / 2
        assert power.mean() == pytest.approx(sigma**2, abs=4 * sigma**2 * np.sqrt(2 / independent))


def test_energy_of_nothing_is_the_floor():
    found = measure("frequency").read(torch.zeros(1, 1, 28, 28))
    assert found["energy0"][0] == pytest.approx(np.log10(FLOOR))


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(0, 15), st.integers(0, 15))
def test_energy_does_not_see_where(seed, down, right):
    images = noise(seed, 2, 1, 16, 16)
    frequency = measure("frequency", bands=3)
    moved = frequency.read(images.roll((down, right), (2, 3)))
    for b in range(3):
        np.testing.assert_allclose(moved[f"energy{b}"], frequency.read(images)[f"energy{b}"], atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.1, 10), st.floats(-3, 3))
def test_phase_of_equal_images_is_one_whatever_the_brightness_and_contrast(seed, scale, shift):
    images = noise(seed, 2, 3, 28, 28)
    for agreement in measure("frequency").compare(images, scale * images + shift).values():
        np.testing.assert_allclose(agreement, 1, atol=1e-5)
    for agreement in measure("frequency").compare(images, shift - scale * images).values():
        np.testing.assert_allclose(agreement, -1, atol=1e-5)


def test_phase_is_its_definition():
    a, b = noise(5, 1, 2, 15, 12), noise(6, 1, 2, 15, 12)
    found = measure("frequency", bands=3).compare(a, b)
    first, second = np.fft.fft2(a.double().numpy()), np.fft.fft2(b.double().numpy())
    belongs = numpy_bands(15, 12, 3)
    belongs[0, 0] = -1
    for k in range(3):
        weight = (np.abs(first) * np.abs(second))[..., belongs == k]
        angle = (np.angle(first) - np.angle(second))[..., belongs == k]
        assert found[f"phase{k}"][0] == pytest.approx((weight * np.cos(angle)).sum() / weight.sum(), abs=1e-5)


def test_phase_of_a_shifted_wave_is_the_cosine_of_the_shift():
    x = torch.arange(16).expand(1, 1, 16, 16)
    for shift in range(8):
        first, second = (torch.cos(2 * torch.pi * 2 * (x - s) / 16) for s in (0, shift))
        agreement = measure("frequency", bands=1).compare(first, second)["phase0"]
        assert agreement[0] == pytest.approx(np.cos(2 * np.pi * 2 * shift / 16), abs=1e-5)


def test_phase_of_independent_noise_is_zero():
    items = 400
    found = measure("frequency").compare(noise(7, items, 1, 28, 28), noise(8, items, 1, 28, 28))
    for agreement in found.values():
        assert abs(agreement.mean()) < 4 * agreement.std(ddof=1) / np.sqrt(items)


def test_phase_of_an_empty_band_is_nan():
    flat, rough = torch.full((1, 1, 16, 16), 0.7), noise(9, 1, 1, 16, 16)
    for a, b in ((flat, flat), (flat, rough), (rough, flat)):
        assert all(np.isnan(values).all() for values in measure("frequency", bands=3).compare(a, b).values())


def test_readings_and_their_descriptions():
    frequency = measure("frequency", model=Model(1, 64, 64))
    images = noise(10, 2, 1, 64, 64)
    scalars = frequency.read(images) | frequency.compare(images, images)
    assert [reading.name for reading in frequency.readings] == list(scalars)
    kinds = ["vector"] * 5 + ["scalar"] * 5 + ["comparison"] * 5
    assert [reading.kind for reading in frequency.readings] == kinds
    assert frequency.readings[2].label == "band 2 (4–8 cycles)"
    assert frequency.readings[9].description == "log10 of the mean power of radial band 4 (16–45 cycles)"
    assert measure("frequency").readings[12].label == "phase of band 2"
    assert measure("frequency?bands=3").settings() == {"bands": 3}


def test_edges_are_those_of_decoded_images():
    class Latent(Model):
        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return latents.repeat_interleave(8, 2).repeat_interleave(8, 3)

    assert measure("frequency", model=Latent(4, 8, 8)).readings[2].label == "band 2 (4–8 cycles)"


@pytest.mark.parametrize("bands", [0, -2, 2.5])
def test_bands_must_be_a_positive_integer(bands):
    with pytest.raises(TurningpointError, match=rf"bands is {bands}; accepted: a positive integer\."):
        measure("frequency", bands=bands)


def test_too_many_bands_and_vectors_get_a_sentence():
    with pytest.raises(
        TurningpointError, match="bands is 40, but band 1 of images of 28 x 28 pixels would be"
    ):
        measure("frequency", bands=40).read(torch.zeros(1, 1, 28, 28))
    for mistake in (
        lambda: measure("frequency").read(torch.zeros(2, 9)),
        lambda: measure("frequency").compare(torch.zeros(2, 9), torch.zeros(2, 9)),
        lambda: measure("frequency", model=Model(9)),
        lambda: band_pass(torch.zeros(2, 9), 3),
    ):
        with pytest.raises(
            TurningpointError, match=r"measure is 'frequency', but the batch has shape \(., 9\)"
        ):
            mistake()


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (64, 48)])
def test_five_bands_suit_small_images(size):
    assert set(layout(*size, 5).band.flatten().tolist()) == set(range(5))
