"""The class on U-turns and between clones: quadrature, its closed numbers, and Monte Carlo."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

import turningpoint as tp
from turningpoint.theory import predicted_curves, theory
from turningpoint.theory.classes import (
    ENTROPY,
    KEPT,
    RATE_LOGSNR,
    PairInformation,
    Quantity,
    SampledInformation,
    information,
)
from turningpoint.theory.clock import logsnr_from_ou
from turningpoint.theory.known import Pair
from turningpoint.theory.retention import kept


def _phi(half, std, w_1, logsnr):
    """Biroli et al. 2024, eq. 6, with weights: the integral of (w_0 G_0)^2 + (w_1 G_1)^2 over the density."""
    alpha_sq = 1 / (1 + math.exp(-logsnr))
    spread = math.sqrt(alpha_sq * std**2 + 1 - alpha_sq)
    m = math.sqrt(alpha_sq) * half

    def integrand(y):
        up, down = w_1 * norm.pdf(y, m, spread), (1 - w_1) * norm.pdf(y, -m, spread)
        return (up**2 + down**2) / (up + down) if up + down > 0 else 0.0

    ends = m + 12 * spread
    return quad(integrand, -ends, ends, points=[-m, 0, m], limit=500, epsabs=1e-13)[0]


def _diagonal(d):
    return tp.load("gaussians", means=[-np.ones(d), np.ones(d)], cov=1.0)


@pytest.mark.parametrize(("d", "phi"), [(16, 0.7657), (64, 0.7727), (256, 0.7746), (1024, 0.7750)])
def test_phi_at_speciation(d, phi):
    level = -math.log(d)  # t_S = 1/2 log(d + 1)
    value, error = kept(_diagonal(d), [level])
    assert round(float(value[0]), 4) == phi
    assert value[0] == pytest.approx(_phi(math.sqrt(d), 1, 0.5, level), abs=1e-10)
    assert error[0] == 0


def test_phi_around_speciation():
    shares = np.array([0.5, 0.8, 1.0, 1.2, 1.5])
    value, _ = kept(_diagonal(64), logsnr_from_ou(shares * math.log(65) / 2))
    np.testing.assert_array_equal(value.round(4), [0.9963, 0.9026, 0.7727, 0.6559, 0.5548])


def test_the_mixture_of_the_uturns():
    model = tp.load("gaussians", dim=8, distance=2, std=0.5)
    levels = model.schedule.logsnr([0.2, 0.3, 0.4, 0.5, 0.6, 0.7]).numpy()
    value, _ = kept(model, levels)
    np.testing.assert_array_equal(value.round(4), [0.9829, 0.9017, 0.7615, 0.6297, 0.5485, 0.5139])


@settings(max_examples=25, deadline=None)
@given(
    half=st.floats(0.1, 20),
    std=st.floats(0, 3),
    w_1=st.floats(0.02, 0.98),
    logsnr=st.floats(-12, 12),
)
def test_quadrature_of_any_pair(half, std, w_1, logsnr):
    known = PairInformation(Pair(half, std, (1 - w_1, w_1)))
    value, _ = known.curve(KEPT, np.array([logsnr]))
    assert value[0] == pytest.approx(_phi(half, std, w_1, logsnr), abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(half=st.floats(0.1, 20), std=st.floats(0, 3), w_1=st.floats(0.02, 0.98))
def test_kept_rises_from_chance_with_log_snr(half, std, w_1):
    known = PairInformation(Pair(half, std, (1 - w_1, w_1)))
    value, _ = known.curve(KEPT, np.linspace(-40, 40, 81))
    assert value[0] == pytest.approx(w_1**2 + (1 - w_1) ** 2, abs=1e-12)
    assert (np.diff(value) >= -1e-12).all()
    assert value[-1] <= 1 + 1e-12


def test_monte_carlo_agrees_with_quadrature():
    model = tp.load("gaussians", means=[[-1.0, 0.5], [1.0, -0.5]], cov=0.3, weights=[0.3, 0.7])
    exact, sampled = information(model), SampledInformation(model, seed=3)
    levels = np.array([-4.0, -2.0, -1.0, 0.0, 1.0, 3.0])
    for quantity in (
        KEPT,
        ENTROPY,
        RATE_LOGSNR,
        Quantity("variation", (0,), (1,)),
        Quantity("variation", (1,), (0, 1)),
    ):
        truth, zero = exact.curve(quantity, levels)
        value, error = sampled.curve(quantity, levels)
        assert not zero.any()
        assert (np.abs(value - truth) < 4 * error).all(), quantity
    for value in (0.65, 0.8, 0.95):
        truth, found = exact.crossing(KEPT, value), sampled.crossing(KEPT, value)
        assert abs(found.logsnr - truth.logsnr) < 4 * found.error
        assert found.error < 0.1
    truth, found = exact.peak(RATE_LOGSNR), sampled.peak(RATE_LOGSNR)
    assert abs(found.logsnr - truth.logsnr) < 4 * found.error


def test_monte_carlo_of_three_classes_by_a_sum_over_the_plane():
    means, weights, std = np.array([[0.0, 1.0], [1.5, -0.5], [-1.0, -1.0]]), np.array([0.2, 0.5, 0.3]), 0.4
    model = tp.load("gaussians", means=means, cov=std**2, weights=weights)
    level = -0.5
    value, error = kept(model, [level])
    tau_sq = math.exp(-level)
    axis = np.linspace(-9, 9, 721)  # in y = x / alpha; the trapezoidal rule is exact to rounding
    y = np.stack(np.meshgrid(axis, axis), -1)
    joint = np.stack(
        [
            w * np.exp(-((y - m) ** 2).sum(-1) / 2 / (std**2 + tau_sq)) / (2 * np.pi * (std**2 + tau_sq))
            for m, w in zip(means, weights, strict=True)
        ]
    )
    truth = ((joint**2).sum(0) / joint.sum(0)).sum() * (axis[1] - axis[0]) ** 2
    assert abs(value[0] - truth) < 4 * error[0]
    assert error[0] < 0.01


def test_curves_carry_what_the_report_asks():
    model = tp.load("deltas", dim=3, a=2.0)
    levels = np.linspace(-4, 3, 8)
    curves = {c.name: c for c in predicted_curves(model, levels)}
    one, other = curves["kept.class"], curves["retention.class"]
    assert (one.quantity, one.feature, other.quantity) == ("kept", "class", "retention")
    np.testing.assert_allclose(other.value, 2 * one.value - 1)
    np.testing.assert_array_equal(one.logsnr, levels)
    assert "without noise" not in one.definition


def test_what_overlapping_components_cannot_reach_is_none_with_its_reason():
    model = tp.load("gaussians", means=[[-0.3], [0.3]], cov=1.0)
    found = {p.name: p for p in theory(model)}
    assert not found["retention.end"].exists
    assert "kept would have to be 0.95, but it stays between 0.5 and" in found["retention.end"].reason
    assert "of the component; without noise" in found["retention.start"].definition


def test_models_that_do_not_know_their_classes():
    assert kept(tp.load("digits"), [0.0]) is None
    assert kept(tp.load("field", size=8), [0.0]) is None
    assert theory(tp.load("digits")) == []
