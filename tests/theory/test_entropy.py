"""The label's entropy, its rate by I-MMSE, and posterior variances."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

import turningpoint as tp
from turningpoint.theory import predicted_curves, theory
from turningpoint.theory.classes import ENTROPY, RATE_LOGSNR, RATE_OU, PairInformation, information
from turningpoint.theory.clock import logsnr_from_ou, ou_from_logsnr
from turningpoint.theory.entropy import posterior_variance
from turningpoint.theory.known import Pair


def _information(m, s, snr):
    """I(Z; x_t) of N(+-m, s^2) from the entropies of the noisy densities, y = sqrt(SNR) x_0 + z."""
    spread, centre = math.sqrt(1 + s * s * snr), math.sqrt(snr) * m

    def integrand(y):
        p = (norm.pdf(y, centre, spread) + norm.pdf(y, -centre, spread)) / 2
        return -p * math.log(p) if p > 0 else 0.0

    ends = centre + 12 * spread
    whole = quad(integrand, -ends, ends, points=[-centre, 0, centre], limit=500, epsabs=1e-13)[0]
    return whole - 0.5 * math.log(2 * math.pi * math.e * spread**2)


@pytest.mark.parametrize(("snr", "slope"), [(0.2, 0.65115), (1.0, 0.16091), (3.0, 0.02697)])
def test_i_mmse(snr, slope):
    step = 1e-3 * snr
    numerical = (_information(1.5, 0.7, snr + step) - _information(1.5, 0.7, snr - step)) / (2 * step)
    known = information(tp.load("gaussians", means=[[-1.5], [1.5]], cov=0.49))
    rate = known.curve(RATE_LOGSNR, np.array([math.log(snr)]))[0][0] / snr
    assert rate == pytest.approx(numerical, rel=1e-5)
    assert abs(rate - slope) < 1e-5
    entropy = known.curve(ENTROPY, np.array([math.log(snr)]))[0][0]
    assert entropy == pytest.approx(math.log(2) - _information(1.5, 0.7, snr), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(half=st.floats(0.2, 10), std=st.floats(0, 2), w_1=st.floats(0.05, 0.95), logsnr=st.floats(-8, 6))
def test_rates_are_derivatives_of_the_entropy(half, std, w_1, logsnr):
    known = PairInformation(Pair(half, std, (1 - w_1, w_1)))
    step = 1e-4
    ends = known.curve(ENTROPY, np.array([logsnr - step, logsnr + step]))[0]
    rate = known.curve(RATE_LOGSNR, np.array([logsnr]))[0][0]
    assert rate == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)
    t = ou_from_logsnr(logsnr)
    ends = known.curve(ENTROPY, logsnr_from_ou([t * (1 - step), t * (1 + step)]))[0]
    rate = known.curve(RATE_OU, np.array([logsnr]))[0][0]
    assert rate * t == pytest.approx((ends[1] - ends[0]) / (2 * step), abs=1e-6)


def test_shape_of_the_rate_of_long_means():
    """Peak at r = 1.228, and one full width at half maximum in time, whatever the dimension."""

    def slope(log_r, step=1e-3):  # -dH / d ln r at unit variance, from the entropies of densities
        low, high = (_information(math.exp(log_r + k * step), 0.0, 1.0) for k in (-1, 1))
        return (high - low) / (2 * step)

    sides = [
        brentq(lambda u: slope(u) - slope(math.log(1.2281)) / 2, *ends) for ends in ((-2, 0.2), (0.2, 1.5))
    ]
    for length in (10.0, 1000.0):
        known = PairInformation(Pair(length, 1.0))
        peak = known.peak(RATE_OU).logsnr
        assert round(float(known.known.separation(peak)), 3) == 1.228
        top = float(ou_from_logsnr(peak))

        def above_half(t, known=known, top=top):
            rate = known.curve(RATE_OU, logsnr_from_ou([t, top]))[0]
            return float(rate[0] - rate[1] / 2)

        half = [brentq(above_half, *ends) for ends in ((top - 2, top), (top, top + 2))]
        assert half[1] - half[0] == pytest.approx(sides[1] - sides[0], abs=1e-5)  # 1.3109


def test_peaks_depend_on_the_clock():
    found = {p.name: p for p in theory(tp.load("deltas"))}
    assert found["entropy.peak.ou"].logsnr > found["entropy.peak.logsnr"].logsnr + 0.3
    assert "Ornstein-Uhlenbeck" in found["entropy.peak.ou"].definition
    assert found["entropy.half"].definition.endswith("(1/2 ln 2)")


def test_a_rate_that_grows_down_to_no_noise_has_no_peak():
    found = {p.name: p for p in theory(tp.load("gaussians", means=[[-0.5], [0.5]], cov=1.0))}
    assert not found["entropy.peak.ou"].exists
    assert found["entropy.peak.ou"].reason == "the rate has no peak: it grows down to no noise"
    assert not found["entropy.half"].exists


def test_monte_carlo_entropy_falls_at_the_rate_it_says():
    """Three classes: the difference of entropies over the same draws against the integral of the rate."""
    model = tp.load("gaussians", means=[[2.0, 0.0], [-1.0, 1.5], [0.0, -2.0]], cov=0.3, weights=[3, 2, 1])
    known = information(model)
    levels = np.linspace(-2, 1, 31)
    rate, error = known.curve(RATE_LOGSNR, levels)
    fallen = np.trapezoid(rate, levels)
    ends, ends_error = known.curve(ENTROPY, levels[[0, -1]])
    band = 4 * math.hypot(np.trapezoid(error, levels), *ends_error)  # draws are shared: no root of 31
    assert abs(ends[0] - ends[1] - fallen) < band
    assert band < 0.2 * fallen


class TestPosteriorVariance:
    levels = np.array([-3.0, 0.0, 2.0])

    def test_deltas(self):
        value, error = posterior_variance(tp.load("deltas"), self.levels)
        for level, found in zip(self.levels, value, strict=True):
            r = math.exp(level / 2)
            truth = quad(
                lambda z, r=r: norm.pdf(z, r) * (1 - math.tanh(r * z) ** 2), -12, r + 12, epsabs=1e-12
            )[0]
            assert found == pytest.approx(truth, abs=1e-9)
        assert not error.any()

    def test_gaussian(self):
        model = tp.load("gaussians", means=[[1.0, 2.0]], cov=[[[2.0, 0.5], [0.5, 1.0]]])
        c = model.covariance().numpy()
        value, _ = posterior_variance(model, self.levels)
        truth = [np.trace(np.linalg.inv(np.linalg.inv(c) + np.eye(2) * math.exp(s))) for s in self.levels]
        np.testing.assert_allclose(value, np.array(truth) / np.trace(c))

    def test_monte_carlo_agrees(self):
        settings_ = {"means": [[-1.0, 0.0, 0.5], [1.0, 0.3, 0.0]], "weights": [0.3, 0.7]}
        exact, _ = posterior_variance(tp.load("gaussians", cov=0.4, **settings_), self.levels)
        full = np.stack([0.4 * np.eye(3)] * 2)
        full[0, 0, 0] += 1e-6  # no Pair any more
        value, error = posterior_variance(tp.load("gaussians", cov=full, **settings_), self.levels)
        assert (error > 0).all()
        assert (np.abs(value - exact) < 4 * error).all()

    def test_none(self):
        assert posterior_variance(tp.load("deltas", points=[[1.0]]), self.levels) is None
        assert posterior_variance(object(), self.levels) is None


def test_curves():
    curves = {c.name: c for c in predicted_curves(tp.load("deltas"), np.array([-1.0, 1.0]))}
    np.testing.assert_allclose(curves["variance.class"].value, 1 - curves["kept.class"].value)
    np.testing.assert_allclose(
        curves["entropy.rate.ou"].value,
        curves["entropy.rate.logsnr"].value * 2 * (1 + np.exp(curves["entropy.rate.ou"].logsnr)),
    )
    # the entropy of a class is its posterior's: at most ln 2, and it falls
    assert math.log(2) > curves["entropy.class"].value[0] > curves["entropy.class"].value[1] > 0
