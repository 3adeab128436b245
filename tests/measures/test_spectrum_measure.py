"""The measure ``spectrum`` against NumPy in float64 on photographs, and against gratings and noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from natural_images import natural_tensors
from scipy.special import digamma

from turningpoint.measures import measure
from turningpoint.measures.frequency import FLOOR
from turningpoint.measures.spectrum import amplitudes

GOLDEN = Path(__file__).parent / "golden" / "denoisefeat" / "denoisefeat_expected.npz"
SHAPES = [(64, 64), (45, 45), (32, 45), (64, 40)]


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def photographs(height: int, width: int) -> torch.Tensor:
    return natural_tensors(max(height, width))[:, :, :height, :width].contiguous()


def grating(height: int, width: int, down: float, right: float, phase: float = 0.3) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wave = torch.cos(2 * torch.pi * (down * y / height + right * x / width) + phase)
    return wave.double()[None, None]


def by_numpy(images: torch.Tensor, sectors: int = 8) -> dict[str, np.ndarray]:
    """Straight from the definitions, over the whole plane, in float64."""
    x = images.double().numpy()
    height, width = x.shape[2:]
    power = (np.abs(np.fft.fft2(x, norm="ortho")) ** 2).mean(1).reshape(len(x), -1)
    fy, fx = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    fy, fx = fy.ravel(), fx.ravel()
    length = min(height, width) * np.hypot(fy, fx)
    rings = np.stack(
        [
            power[:, (length >= f - 0.5) & (length < f + 0.5)].mean(1)
            for f in range(min(height, width) // 2 + 1)
        ],
        1,
    )
    total = power[:, 1:].sum(1)
    shares, resultant = np.zeros((len(x), sectors)), np.zeros(len(x), complex)
    for k in range(1, len(fy)):
        mirrored = [-1, 1] if fy[k] == -0.5 or fx[k] == -0.5 else [1]  # at Nyquist both signs are one wave
        for sign in mirrored:
            degrees = math.degrees(math.atan2(-sign * fy[k], fx[k])) % 180
            apart = np.abs((degrees - 180 / sectors * np.arange(sectors) + 90) % 180 - 90)
            shares[:, apart.argmin()] += power[:, k] / len(mirrored)
            resultant += power[:, k] / len(mirrored) * np.exp(2j * math.radians(degrees))
    slope = np.full(len(x), np.nan)
    for i, one in enumerate(rings[:, 1:]):
        there = one > FLOOR
        f = np.arange(1, rings.shape[1])[there]
        slope[i] = np.polyfit(np.log(f), np.log(one[there]), 1)[0]
    return {
        "power": rings,
        "slope": slope,
        "orientation": shares / total[:, None],
        "anisotropy": np.abs(resultant) / total,
    }


@pytest.mark.parametrize("shape", SHAPES)
def test_on_photographs_it_is_numpys(shape):
    images = photographs(*shape)
    assert len(images) >= 20
    found, expected = measure("spectrum").read(images), by_numpy(images)
    # a float32 transform errs, per coefficient, by its resolution times the log of its length times the image's size
    error = 2**-23 * math.log2(shape[0] * shape[1]) * images.square().mean().sqrt().item()
    np.testing.assert_allclose(np.sqrt(found["power"]), np.sqrt(expected["power"]), atol=error, rtol=2**-20)
    spread = images.flatten(2).std(2).min().item()
    assert spread > 1e-3
    for name in ("orientation", "anisotropy"):
        np.testing.assert_allclose(found[name], expected[name], atol=2 * error / spread)
    rings = expected["power"][:, 1:]
    centred = np.log(np.arange(1, rings.shape[1] + 1))
    centred -= centred.mean()
    off = 2 * error / np.sqrt(np.maximum(rings, FLOOR)).min() * np.abs(centred).sum() / (centred**2).sum()
    assert off < 0.05
    np.testing.assert_allclose(found["slope"], expected["slope"], atol=off + 1e-5)
    assert (found["slope"][[0, 2, 4]] < -1).all()  # astronaut, cat, coffee: natural scenes


@pytest.mark.parametrize("sectors", [2, 3, 8])
def test_a_grating_lies_in_the_sector_of_its_angle(sectors):
    # sectors are centred on multiples of 180 / n, counter-clockwise from the horizontal; rows run down
    for down, right in ((0, 3), (5, 0), (-3, 3), (3, 3), (-1, 4), (4, 1), (2, -7), (-5, 2)):
        image = grating(32, 32, down, right).float()
        found = measure("spectrum", sectors=sectors).read(image)
        degrees = math.degrees(math.atan2(-down, right)) % 180
        expected = np.zeros(sectors)
        expected[math.floor(degrees * sectors / 180 + 0.5 + 1e-9) % sectors] = 1
        np.testing.assert_allclose(found["orientation"][0], expected, atol=1e-5)
        assert found["anisotropy"][0] == pytest.approx(1, abs=1e-5)
        power = np.zeros(17)
        power[round(math.hypot(down, right))] = 1
        np.testing.assert_allclose(found["power"][0] > 1e-6, power)


def test_angles_are_those_of_the_picture_not_of_the_grid():
    # three cycles over 16 rows and six over 32 columns fall at 45 degrees
    found = measure("spectrum").read(grating(16, 32, 3, 6).float())
    np.testing.assert_allclose(found["orientation"][0], np.eye(8)[6], atol=1e-5)
    assert found["power"][0].argmax() == round(math.hypot(3, 3))  # cycles per shorter side


@pytest.mark.parametrize(("degrees", "expected"), [(90, 0), (45, 1 / math.sqrt(2)), (0, 1)])
def test_two_gratings_have_the_resultant_of_their_doubled_angles(degrees, expected):
    second = {90: (4, 0), 45: (4, 4), 0: (0, 6)}[degrees]
    image = grating(32, 32, 0, 4) + grating(32, 32, *second)
    assert measure("spectrum").read(image.float())["anisotropy"][0] == pytest.approx(expected, abs=1e-5)


def test_a_wave_at_nyquist_has_both_directions():
    checkers = grating(16, 16, 8, 8, 0)
    np.testing.assert_allclose(
        measure("spectrum").read(checkers.float())["orientation"][0],
        np.eye(8)[2] / 2 + np.eye(8)[6] / 2,
        atol=1e-6,
    )
    slanted = grating(16, 16, 8, 3)
    found = measure("spectrum").read(slanted.float())["orientation"][0]
    np.testing.assert_allclose(found, found[[0, 7, 6, 5, 4, 3, 2, 1]], atol=1e-6)


def test_a_turned_picture_has_turned_directions():
    images = photographs(45, 45)
    for one, other in ((images, images.rot90(1, (2, 3))), (images, images.rot90(3, (2, 3)))):
        first, second = measure("spectrum").read(one), measure("spectrum").read(other)
        np.testing.assert_allclose(np.roll(first["orientation"], 4, 1), second["orientation"], atol=1e-5)
        np.testing.assert_allclose(first["anisotropy"], second["anisotropy"], atol=1e-5)
    first, second = measure("spectrum").read(images), measure("spectrum").read(images.flip(2))
    np.testing.assert_allclose(
        first["orientation"][:, [0, 7, 6, 5, 4, 3, 2, 1]], second["orientation"], atol=1e-5
    )


def test_white_noise_has_neither_slope_nor_direction():
    items, sigma, side = 600, 0.4, 15
    found = measure("spectrum").read(sigma * noise(1, items, 1, side, side))
    error = found["power"].std(0, ddof=1) / math.sqrt(items)
    assert (np.abs(found["power"].mean(0) - sigma**2) < 4 * error).all()
    down, right = np.delete(np.mgrid[-7:8, -7:8].reshape(2, -1), 112, 1)
    # a ring is the mean of n exponentials, one a pair of conjugates; its logarithm is digamma(n) - log(n) on average
    n = np.bincount(np.floor(np.hypot(down, right) + 0.5).astype(int))[1:8] / 2
    x = np.log(np.arange(1, 8)) - np.log(np.arange(1, 8)).mean()
    slope, error = found["slope"].mean(), found["slope"].std(ddof=1) / math.sqrt(items)
    assert abs(slope - (x * (digamma(n) - np.log(n))).sum() / (x**2).sum()) < 4 * error
    sector = np.floor(np.degrees(np.arctan2(-down, right)) % 180 / 22.5 + 0.5).astype(int) % 8
    shares = found["orientation"]
    error = shares.std(0, ddof=1) / math.sqrt(items)
    assert (np.abs(shares.mean(0) - np.bincount(sector) / 224) < 4 * error).all()
    # 112 pairs of conjugates, weights uniform on the simplex, angles that cancel: E R^2 = 1 / 113
    squared = found["anisotropy"].astype(float) ** 2
    assert abs(squared.mean() - 1 / 113) < 4 * squared.std(ddof=1) / math.sqrt(items)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.5])
def test_a_power_law_has_its_slope(exponent):
    side = 33
    k = np.fft.fftfreq(side, 1 / side)
    ring = np.floor(np.hypot(k[:, None], k) + 0.5)
    phases = np.angle(np.fft.fft2(np.random.default_rng(0).standard_normal((side, side))))
    amplitude = 100 * np.where(ring > 0, ring.clip(1) ** (-exponent / 2), 0)
    image = np.fft.ifft2(amplitude * np.exp(1j * phases)).real
    found = measure("spectrum").read(torch.from_numpy(image)[None, None])
    assert found["slope"][0] == pytest.approx(-exponent, abs=1e-3)


def test_energies_are_frequencys_without_the_logarithm():
    images = photographs(32, 45)
    for settings in ({}, {"bands": 3}, {"edges": "0,2,4,8"}):
        linear, logs = (
            measure("spectrum", **settings).read(images),
            measure("frequency", **settings).read(images),
        )
        names = [name for name in logs if name.startswith("energy")]
        assert names == [name for name in linear if name.startswith("energy")]
        for name in names:
            np.testing.assert_allclose(np.log10(np.maximum(linear[name], FLOOR)), logs[name], atol=1e-5)
    absent = {reading.name: reading.absent for reading in measure("spectrum").readings}
    assert (absent["energy0"], absent["anisotropy"], absent["slope"]) == (0, 0, None)


def test_amplitude_and_phase_multiply_to_the_agreement_of_contents():
    a, b = photographs(45, 45)[:-1], photographs(45, 45)[1:]
    found = measure("spectrum").compare(a, b)
    content = [measure("frequency").read(x - x.mean((2, 3), keepdim=True)) for x in (a, b)]
    for k in range(5):
        x, y = (c[f"band{k}"].astype(float) for c in content)
        agreement = 1 - ((x - y) ** 2).sum(1) / ((x**2).sum(1) + (y**2).sum(1))
        # of two bands of very unequal power little is left, in absolute numbers of float32
        np.testing.assert_allclose(found[f"amplitude{k}"] * found[f"phase{k}"], agreement, atol=2e-5)
        assert (found[f"amplitude{k}"] <= 1 + 1e-6).all()


def test_phases_are_frequencys():
    a, b = photographs(64, 40)[:-1], photographs(64, 40)[1:]
    ours, theirs = (
        measure("spectrum", edges="1,4,9").compare(a, b),
        measure("frequency", edges="1,4,9").compare(a, b),
    )
    assert {name: values.tolist() for name, values in ours.items() if name.startswith("phase")} == {
        name: values.tolist() for name, values in theirs.items()
    }


@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
def test_contrast_is_a_matter_of_amplitude_alone(scale):
    images = photographs(45, 45)
    for sign in (1, -1):
        found = measure("spectrum").compare(images, sign * scale * images + 0.3)
        for k in range(5):
            np.testing.assert_allclose(found[f"amplitude{k}"], 2 * scale / (1 + scale**2), atol=1e-4)
            np.testing.assert_allclose(found[f"phase{k}"], sign, atol=1e-4)


def test_moved_pictures_agree_in_amplitude_not_in_phase():
    images = noise(4, 20, 3, 32, 32)
    found = measure("spectrum").compare(images, images.roll((9, 14), (2, 3)))
    for k in range(5):
        np.testing.assert_allclose(found[f"amplitude{k}"], 1, atol=1e-5)
    assert np.abs(found["phase4"]).max() < 0.2


def test_an_empty_band():
    flat, rough = torch.full((2, 1, 16, 16), 0.7), noise(9, 2, 1, 16, 16)
    spectrum = measure("spectrum", bands=3)
    for a, b in ((flat, rough), (rough, flat)):
        found = spectrum.compare(a, b)
        assert all(
            (found[f"amplitude{k}"] < 1e-5).all() and np.isnan(found[f"phase{k}"]).all() for k in range(3)
        )
    assert all(np.isnan(values).all() for values in spectrum.compare(flat, flat).values())
    found = spectrum.read(flat)
    assert np.isnan(found["orientation"]).all()
    assert np.isnan(found["slope"]).all()
    assert (found["anisotropy"] == 0).all()
    np.testing.assert_allclose(found["power"][:, 0], 256 * 0.49, rtol=1e-6)


def test_readings_have_the_declared_names_and_shapes():
    spectrum = measure("spectrum?bands=2&sectors=4")
    images = noise(0, 3, 3, 28, 28)
    found = spectrum.read(images) | spectrum.compare(images, images)
    assert [reading.name for reading in spectrum.readings] == list(found)
    assert {name: found[name].shape for name in ("power", "slope", "orientation")} == {
        "power": (3, 15),
        "slope": (3,),
        "orientation": (3, 4),
    }
    assert spectrum.settings() == {"bands": 2, "sectors": 4}
    assert not spectrum.by_default
    alone = spectrum.read(images[1:2])
    assert all(np.allclose(alone[name], found[name][1:2], rtol=1e-5) for name in alone)


def test_published_amplitudes():
    golden = np.load(GOLDEN)
    seen = 0
    for key in golden.files:
        name, _, what = key.partition("/")
        if what not in ("fourier", "fourier_gray"):
            continue
        image = golden[f"{name}/gray" if what == "fourier_gray" else f"{name}/image"]
        found = amplitudes(torch.from_numpy(image.astype(float))[None, None])[0, 0].numpy() * math.sqrt(
            image.size
        )
        expected = golden[key]
        # where the exact value is 0, what is there is the rounding of a sum over all pixels
        rounding = 2**-52 * math.log2(image.size) * found[0, 0]
        height, width = expected.shape
        np.testing.assert_allclose(found[:height, :width], expected, rtol=1e-9, atol=rounding)
        grey = amplitudes(torch.from_numpy(image / 255)[None, None])[0, 0, :10, :10].sum() * math.sqrt(
            image.size
        )
        assert grey.item() == pytest.approx(float(golden[f"{name}/gray01_fourier_sum10"]), rel=1e-9)
        seen += 1
    assert seen == 8


@pytest.mark.parametrize("sectors", [1, 0, 2.5, True])
def test_bad_input(sectors, refuses):
    with refuses(rf"sectors is {sectors}; accepted: an integer of 2 or more"):
        measure("spectrum", sectors=sectors)
    with refuses(r"measure is 'spectrum', but the batch has shape \(2, 9\)"):
        measure("spectrum").read(torch.zeros(2, 9))
    with refuses(r"images have shape \(2, 9\); accepted: \(B, C, H, W\)"):
        amplitudes(torch.zeros(2, 9))
    with refuses("bands is 0"):
        measure("spectrum", bands=0)
