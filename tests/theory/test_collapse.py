"""Collapse on n points: entropies, free energies, and the optimal denoiser itself."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

import turningpoint as tp
from turningpoint.theory import CURVES, DEFINITIONS
from turningpoint.theory.clock import logsnr_from_ou, ou_from_logsnr
from turningpoint.theory.collapse import collapse_logsnr, collapse_time, excess_entropy, rem_free_energy


def _gaussian_entropy(variance):
    return 0.5 * math.log(2 * math.pi * math.e * variance)


@pytest.mark.parametrize(("n", "d", "published"), [(1000, 16, 0.273828), (20_000, 64, 0.661802)])
def test_the_root_of_the_entropies_is_the_formula(n, d, published):
    def f(t):
        noise = 1 - math.exp(-2 * t)
        return math.log(n) / d + _gaussian_entropy(noise) - _gaussian_entropy(math.exp(-2 * t) + noise)

    root = brentq(f, 1e-6, 5, xtol=1e-12)
    assert collapse_time(n, d) == pytest.approx(root, abs=1e-10)
    assert round(collapse_time(n, d), 6) == published
    assert ou_from_logsnr(collapse_logsnr(n, np.ones(d))) == pytest.approx(root, abs=1e-9)
    t = np.array([0.1, root, 1.0])
    np.testing.assert_allclose(
        excess_entropy(n, np.ones(d), logsnr_from_ou(t)), [f(s) for s in t], atol=1e-12
    )


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 10**7),
    eigenvalues=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30),
    nothing=st.integers(0, 3),
)
def test_information_is_log_n_at_collapse(n, eigenvalues, nothing):
    values = np.array(eigenvalues + [0.0] * nothing)
    snr = math.exp(collapse_logsnr(n, values))
    assert 0.5 * np.log1p(values * snr).sum() == pytest.approx(math.log(n), rel=1e-9)


def test_variance_shifts_the_clock_only():
    assert collapse_logsnr(500, 4.0 * np.ones(8)) == pytest.approx(
        collapse_logsnr(500, np.ones(8)) - math.log(4)
    )
    assert math.exp(-2 * collapse_time(500, 8, 4.0)) == pytest.approx(1 / (1 + 4.0 / (500 ** (2 / 8) - 1)))


class TestRandomEnergyModel:
    n, d = 1000, 16
    t_c = collapse_time(n, d)

    def test_collapse_is_where_the_others_weigh_as_much_as_the_own_point(self):
        assert rem_free_energy(self.n, self.d, self.t_c) == pytest.approx(-0.5, abs=1e-12)
        assert (
            rem_free_energy(self.n, self.d, 0.9 * self.t_c)
            < -0.5
            < rem_free_energy(self.n, self.d, 1.1 * self.t_c)
        )
        below = rem_free_energy(self.n, self.d, self.t_c * (1 - 1e-7))
        assert below == pytest.approx(-0.5, abs=1e-5)  # the condensed branch joins the other

    @settings(max_examples=20, deadline=None)
    @given(share=st.floats(0.1, 0.95), variance=st.floats(0.2, 5))
    def test_condensed_branch_by_its_large_deviations(self, share, variance):
        """psi_+ = -min e over the energies that n points reach: the Legendre transform of ln E exp(-b e)."""
        t = share * collapse_time(self.n, self.d, variance)
        signal, noise = variance * math.exp(-2 * t), -math.expm1(-2 * t)
        gamma, entropy = signal + noise, math.log(self.n) / self.d

        def free(b):  # per dimension, of e = (x - a e^{-t})^2 / 2 Delta with x^2 = Gamma
            k = b / noise
            return -0.5 * math.log1p(signal * k) - 0.5 * k * gamma / (1 + signal * k)

        # e_min = max over b of -(free(b) + log n / d) / b
        b = np.exp(np.linspace(-6, 4, 200_001))
        k = b / noise
        values = -(-0.5 * np.log1p(signal * k) - 0.5 * k * gamma / (1 + signal * k) + entropy) / b
        assert free(1.0) == pytest.approx(-0.5 * math.log1p(signal / noise) - 0.5)
        assert rem_free_energy(self.n, self.d, t, variance) == pytest.approx(-values.max(), abs=1e-6)

    def test_annealed_branch_by_simulation(self):
        rng = np.random.default_rng(0)
        t, found = 3 * self.t_c, []
        alpha, noise = math.exp(-t), -math.expm1(-2 * t)
        for _ in range(400):
            a = rng.standard_normal((self.n, self.d))
            x = alpha * rng.standard_normal(self.d) + math.sqrt(noise) * rng.standard_normal(self.d)
            energy = ((x - alpha * a) ** 2).sum(1) / (2 * noise)
            found.append(np.log(np.exp(-energy).sum()) / self.d)
        error = np.std(found) / math.sqrt(len(found))
        assert abs(np.mean(found) - rem_free_energy(self.n, self.d, t)) < 4 * error


@pytest.mark.parametrize(("share", "published"), [(0.5, 0.997), (1.0, 0.554), (1.5, 0.064), (2.0, 0.004)])
def test_the_own_point_loses_its_weight_around_collapse(share, published):
    """d = 64, n = 20 000: the published weights, simulated again with 400 queries."""
    n, d, count = 20_000, 64, 400
    rng = np.random.default_rng(5)
    a = rng.standard_normal((n, d)).astype(np.float32)
    t = share * collapse_time(n, d)
    alpha, noise = math.exp(-t), -math.expm1(-2 * t)
    x = alpha * a[:count] + math.sqrt(noise) * rng.standard_normal((count, d)).astype(np.float32)
    logits = (alpha * x @ a.T - alpha**2 * (a**2).sum(1) / 2) / noise
    weight = np.exp(logits[np.arange(count), np.arange(count)] - np.logaddexp.reduce(logits, 1))
    error = weight.std() / math.sqrt(count)
    assert abs(weight.mean() - published) < 4 * error * math.sqrt(2) + 5e-4  # both are means; three digits


class TestModels:
    def test_points(self):
        rng = np.random.default_rng(1)
        points = rng.standard_normal((60, 3)) * [2.0, 1.0, 0.5]
        model = tp.load("empirical", data=points)
        (found,) = DEFINITIONS["collapse"](model)
        values = np.linalg.eigvalsh(np.cov(points.T, bias=True))
        assert 0.5 * np.log1p(values * math.exp(found.logsnr)).sum() == pytest.approx(math.log(60), rel=1e-6)
        levels = np.array([found.logsnr - 1, found.logsnr, found.logsnr + 1])
        (curve,) = CURVES["collapse"](model, levels)
        assert curve.value[0] > 0 > curve.value[2]
        assert curve.value[1] == pytest.approx(0, abs=1e-6)

    def test_a_distribution_does_not_collapse(self):
        assert DEFINITIONS["collapse"](tp.load("deltas")) == []

    def test_one_point_has_nothing_to_collapse_from(self):
        (found,) = DEFINITIONS["collapse"](tp.load("empirical", data=[[1.0, 2.0]]))
        assert (found.exists, found.reason) == (False, "all points are one")


def test_bad_input(refuses):
    with refuses("n is 1; accepted: a whole number of at least 2"):
        collapse_time(1, 4)
    with refuses("dim is 0; accepted"):
        collapse_time(10, 0)
    with refuses("the largest variance is 0.0; accepted: above 0"):
        collapse_logsnr(10, [0.0, 0.0])
    with refuses("t is 0.0; accepted: a time above 0"):
        rem_free_energy(10, 4, 0.0)
