"""Half-emergence of modes and bands, the Gaussian's ODE, and what U-turns keep of a field."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import turningpoint as tp
from turningpoint.measures import measure
from turningpoint.theory import predicted_curves, theory
from turningpoint.theory.spectrum import (
    band_half_emergence,
    bands,
    gain,
    half_amplitude,
    half_emergence,
    mode,
    power_spectrum,
)


@settings(max_examples=30, deadline=None)
@given(variance=st.floats(1e-3, 1e3), tau=st.floats(0.01, 30))
def test_gain_is_the_wiener_filter_s(variance, tau):
    model = tp.load("gaussians", means=[[0.0]], cov=variance, schedule="edm")
    t = model.schedule.t(sigma=tau)[None]
    slope = model(torch.tensor([[1.0]]).double(), t) - model(torch.tensor([[0.0]]).double(), t)
    assert gain(variance, -2 * math.log(tau)) == pytest.approx(slope.item(), rel=1e-9)
    # relative power of the denoised item: its variance over that of the data
    assert slope.item() ** 2 * (variance + tau**2) / variance == pytest.approx(slope.item(), rel=1e-9)


def test_half_of_gain_and_of_amplitude():
    variances = np.array([0.1, 1.0, 7.0])
    np.testing.assert_allclose(np.exp(-half_emergence(variances) / 2), np.sqrt(variances))
    np.testing.assert_allclose(gain(variances, half_emergence(variances)), 0.5)
    np.testing.assert_allclose(np.exp(-half_amplitude(variances) / 2), np.sqrt(3 * variances))
    np.testing.assert_allclose(np.sqrt(gain(variances, half_amplitude(variances))), 0.5)


@pytest.mark.parametrize("variance", [0.01, 1.0, 9.0])
def test_modes_move_along_the_ode(variance):
    start, end = 80.0, 0.002
    found = solve_ivp(lambda s, x: x * s / (s * s + variance), (start, end), [1.0], rtol=1e-10, atol=1e-14)
    assert mode(variance, end, start) == pytest.approx(found.y[0, -1], rel=1e-7)


@settings(max_examples=20, deadline=None)
@given(variances=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=20))
def test_a_band_has_half_of_its_power(variances):
    power = np.array(variances)
    level = band_half_emergence(power)
    assert (power * gain(power, level)).sum() == pytest.approx(power.sum() / 2, rel=1e-9)


def test_bands_hold_all_of_the_power_and_are_those_of_the_measure():
    images = np.random.default_rng(0).standard_normal((40, 2, 12, 16)).astype(np.float32)
    split = bands(power_spectrum(images))
    assert sum(len(band) for band in split) == 2 * 12 * 16
    assert sum(band.sum() for band in split) == pytest.approx(images.var(0).sum(), rel=1e-5)
    content = measure("frequency").read(torch.from_numpy(images))
    for b, band in enumerate(split):
        assert band.sum() == pytest.approx(content[f"band{b}"].var(0).sum(), rel=1e-5)


class TestField:
    model = tp.load("field", size=16, exponent=2.0, std=0.7)

    def test_spectrum_is_that_of_its_samples(self):
        exact = bands(self.model.fourier_variances())
        images, _ = self.model.sample(2000, seed=0)
        for one, other in zip(exact, bands(power_spectrum(images)), strict=True):
            # a mode's power has the relative variance 2 / N; a complex one, counted twice, 1 / N
            error = math.sqrt(2 * (one**2).sum() * 2 / 2000)
            assert abs(one.sum() - other.sum()) < 4 * error

    def test_uturns_keep_of_a_band_what_is_predicted(self):
        """Two draws of the posterior against two independent ones, through the measure."""
        variance = self.model.fourier_variances().numpy()[0]
        count, level = 2000, 0.5
        rng = np.random.default_rng(0)

        def draw(scale):
            return np.fft.fft2(rng.standard_normal((count, 16, 16)), norm="ortho") * np.sqrt(scale)

        x_0 = draw(variance)
        y = x_0 + draw(np.exp(-level) * np.ones((16, 16)))
        shrunk = variance / (variance + math.exp(-level))
        back = shrunk * y + draw(shrunk * math.exp(-level))
        curves = {c.feature: c for c in predicted_curves(self.model, np.array([level]))}
        read = [
            measure("frequency").read(torch.from_numpy(np.fft.ifft2(z, norm="ortho").real[:, None]).float())
            for z in (x_0, back)
        ]
        for b in range(5):
            before, after = (r[f"band{b}"].astype(float) for r in read)
            moved = ((before - after) ** 2).sum(1)
            apart = ((before - np.roll(after, 1, 0)) ** 2).sum(1)
            retention = 1 - moved.mean() / apart.mean()
            error = math.hypot(moved.std() / apart.mean(), apart.std() * moved.mean() / apart.mean() ** 2)
            curve = curves[f"frequency.band{b}"]
            assert (curve.quantity, curve.name) == ("retention", f"retention.frequency.band{b}")
            assert abs(retention - curve.value[0]) < 4 * error / math.sqrt(count)

    def test_predictions(self):
        found = {p.name: p for p in theory(self.model)}
        largest = self.model.fourier_variances().max().item()
        assert found["spectrum.mode1"].logsnr == pytest.approx(-math.log(largest))
        centres = [found[f"spectrum.band{b}"].logsnr for b in range(5)]
        assert centres == sorted(centres)  # coarse before fine
        curve = predicted_curves(self.model, np.array(centres))
        for b in range(5):
            (one,) = [c for c in curve if c.feature == f"frequency.band{b}"]
            assert one.value[b] == pytest.approx(0.5, abs=1e-9)


def test_bands_of_a_model_without_a_spectrum_are_estimated():
    rng = np.random.default_rng(0)
    means = torch.from_numpy(rng.standard_normal((2, 1, 8, 8)))
    model = tp.load("gaussians", means=means, cov=0.5)
    found = {p.name: p for p in theory(model)}
    apart = (means[1] - means[0]).numpy() / 2
    power = bands(np.abs(np.fft.fft2(apart, norm="ortho")) ** 2 + 0.5)
    for b in range(5):
        at = found[f"spectrum.band{b}"]
        assert at.definition.endswith("best linear denoiser")
        assert 0 < at.error < 0.2
        assert abs(at.logsnr - band_half_emergence(power[b])) < 4 * at.error


def test_equal_eigenvalues_are_named_once():
    model = tp.load("gaussians", means=[[-3.0, 0, 0, 0], [3.0, 0, 0, 0]], cov=1.0)
    names = [p.name for p in theory(model) if p.name.startswith("spectrum")]
    assert names == ["spectrum.mode1", "spectrum.mode2"]


def test_bad_input(refuses):
    with refuses("variances are all 0"):
        band_half_emergence([0.0])
    with refuses(r"images have shape \(3, 4\); accepted: \(N, C, H, W\)"):
        power_spectrum(np.zeros((3, 4)))
    with refuses(r"power has shape \(4, 4\); accepted: \(C, H, W\)"):
        bands(np.zeros((4, 4)))
