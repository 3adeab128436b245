"""The measure ``gain``: moments against ``numpy.fft``, and the denoiser's gain against its closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import turningpoint as tp
from turningpoint.measures import measure
from turningpoint.measures.frequency import layout
from turningpoint.models.empirical import Empirical
from turningpoint.theory.spectrum import band_half_gain, bands

SIDE = 16
FIELD = tp.load("field", size=SIDE, exponent=2.0, std=0.6)
LAMBDA = FIELD.fourier_variances().numpy()[0]


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_band(name: str, found: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack([found[f"{name}{b}"] for b in range(5)], 1).astype(float)


def which_band(height: int, width: int) -> np.ndarray:
    """The band of every mode of fft2."""
    band = layout(height, width, 5).band.numpy()
    whole = np.empty((height, width), int)
    whole[:, : width // 2 + 1] = band
    for row in range(height):
        for column in range(width // 2 + 1, width):
            whole[row, column] = band[-row % height, width - column]
    return whole


@pytest.mark.parametrize("size", [(16, 16), (15, 12)])
def test_moments_are_numpys(size):
    states, estimates = 3 * noise(0, 4, 3, *size), noise(1, 4, 3, *size)
    found = measure("gain").compare(states, estimates)
    x, y = (np.fft.fft2(z.double().numpy(), norm="ortho") for z in (states, estimates))
    band = which_band(*size)
    for b in range(5):
        cross = (y * x.conj()).real[..., band == b].mean((1, 2))
        np.testing.assert_allclose(found[f"cross{b}"], cross, atol=1e-5)
        np.testing.assert_allclose(
            found[f"input{b}"], (np.abs(x) ** 2)[..., band == b].mean((1, 2)), rtol=1e-5
        )


@pytest.mark.parametrize("t", [0.05, 0.3, 0.5, 0.9])
def test_with_exact_moments_it_is_the_closed_form(t):
    """Items along the axes of a real Fourier basis, each of the variance of its mode, have exact moments."""
    clock = torch.tensor([t])
    alpha, sigma = FIELD.schedule.alpha(clock).item(), FIELD.schedule.sigma(clock).item()
    spread = np.sqrt(alpha**2 * LAMBDA + sigma**2) * SIDE  # N items, each the root of N times its share
    units = np.eye(SIDE * SIDE).reshape(-1, SIDE, SIDE)
    # the Hartley transform of the unit vectors: an orthonormal basis, real, one vector for each mode
    modes = np.fft.fft2(units, norm="ortho")
    states = (modes.real + modes.imag) * spread.reshape(-1, 1, 1)
    states = torch.from_numpy(states[:, None]).float()
    found = measure("gain").compare(states, FIELD(states, clock.expand(len(states))))
    tau = sigma / alpha
    for b, variances in enumerate(bands(FIELD.fourier_variances())):
        slope = alpha * found[f"cross{b}"].mean(dtype=float) / found[f"input{b}"].mean(dtype=float)
        assert slope == pytest.approx(variances.sum() / (variances + tau**2).sum(), rel=1e-5)
        half = math.exp(-band_half_gain(variances))
        assert half == pytest.approx(variances.mean())


@pytest.mark.parametrize("data", ["field", "points"])
def test_of_any_exact_denoiser_it_is_that_of_the_second_moments(data):
    """The tower rule needs no Gaussian: E x0hat x* = alpha E |x_0|^2, here for 32 points with a mean, too."""
    count, generator = 2000, torch.Generator().manual_seed(5)
    if data == "field":
        model, x_0, second = FIELD, FIELD.sample(count, seed=4)[0], LAMBDA
    else:
        points = FIELD.sample(32, seed=3)[0] + 0.4
        model, x_0 = Empirical(points), points[torch.randint(32, (count,), generator=generator)]
        second = (np.abs(np.fft.fft2(points.double().numpy(), norm="ortho")) ** 2).mean((0, 1))
    for t in (0.2, 0.6):
        clock = torch.tensor([t])
        alpha, sigma = model.schedule.alpha(clock).item(), model.schedule.sigma(clock).item()
        states = alpha * x_0 + sigma * torch.randn(x_0.shape, generator=generator)
        found = measure("gain").compare(states, model(states, clock.expand(count)))
        cross, inputs = of_band("cross", found), of_band("input", found)
        gain = alpha * cross.mean(0) / inputs.mean(0)
        # a ratio of means: the standard error of its linear part
        error = (alpha * cross - gain * inputs).std(0, ddof=1) / inputs.mean(0) / math.sqrt(count)
        for b, variances in enumerate(bands(second[None])):
            expected = variances.sum() / (variances + (sigma / alpha) ** 2).sum()
            assert abs(gain[b] - expected) < 4 * error[b]


def test_readings():
    gain = measure("gain?bands=2", model=FIELD)
    assert [reading.name for reading in gain.readings] == ["cross0", "cross1", "input0", "input1"]
    assert {reading.kind for reading in gain.readings} == {"comparison"}
    assert (
        gain.readings[0].description == "mean product of state and estimate in radial band 0 (0–2.8 cycles)"
    )
    assert (gain.against, gain.by_default, gain.settings()) == ("state", False, {"bands": 2})
    states = noise(0, 2, 1, 16, 16)
    assert gain.read(states) == {}
    assert list(gain.compare(states, states)) == [reading.name for reading in gain.readings]


def test_bands_of_a_latent_model_are_those_of_its_states():
    class Latent:
        shape = (4, 8, 8)

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return latents.repeat_interleave(8, 2).repeat_interleave(8, 3)

    assert measure("gain?bands=2", model=Latent()).readings[1].label == "cross of band 1 (2–5.7 cycles)"


def test_bad_input(refuses):
    with refuses(r"measure is 'gain', but the batch has shape \(2, 9\)"):
        measure("gain").compare(torch.zeros(2, 9), torch.zeros(2, 9))
    with refuses(r"states have shape \(1, 4, 8, 8\) and estimates \(1, 3, 64, 64\); accepted: one shape"):
        measure("gain").compare(torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 64, 64))
