"""The critical times of one system under their many names: N(+-m, I), |m|^2 = d = 1024, in Ornstein-Uhlenbeck time.

Every value is derived a second time here, from the one-dimensional mixture along the discriminant.
"""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm

import turningpoint as tp
from turningpoint.theory import table, theory
from turningpoint.theory.clock import logsnr_from_ou, ou_from_logsnr

D = 1024


@pytest.fixture(scope="module")
def found():
    m = np.ones(D)
    model = tp.load("gaussians", means=[-m, m], cov=1.0)
    return {p.name: p for p in theory(model)}


def _mean(f, t):
    """E f(p_+) over N(+-r, 1) mixed evenly, r = sqrt(d) e^{-t}."""
    r = np.sqrt(D) * np.exp(-t)

    def integrand(z):
        up, down = norm.pdf(z, r), norm.pdf(z, -r)
        return (up + down) / 2 * f(up / (up + down))

    return quad(integrand, -r - 12, r + 12, points=[-r, 0, r], limit=500, epsabs=1e-13)[0]


def _entropy(t):
    return _mean(lambda p: -sum(q * np.log(q) if q > 0 else 0.0 for q in (p, 1 - p)), t)


def _kept(t):
    return _mean(lambda p: p**2 + (1 - p) ** 2, t)


def _ou(prediction):
    return float(ou_from_logsnr(prediction.logsnr))


def test_the_table_of_facts_in_one_call(found):
    rows = {
        "entropy.peak.ou": 3.26,
        "entropy.half": 3.44,
        "bimodal": 3.466,
        "speciation": 3.466,
        "kept.0.75": 3.547,
        "stability.sde.vp": 3.812,
    }
    for name, published in rows.items():
        last_digit = 10.0 ** -len(str(published).partition(".")[2])
        assert abs(_ou(found[name]) - published) < last_digit, name
    assert not found["stability.ode.vp"].exists
    assert "unstable at every noise level" in found["stability.ode.vp"].reason


def test_the_peak_of_the_entropy_rate(found):
    step = 1e-3
    rate = minimize_scalar(
        lambda t: -(_entropy(t + step) - _entropy(t - step)), bounds=(2.8, 3.7), method="bounded"
    )
    assert _ou(found["entropy.peak.ou"]) == pytest.approx(rate.x, abs=1e-3)  # the difference quotient's order


def test_crossings(found):
    half = brentq(lambda t: _entropy(t) - np.log(2) / 2, 3, 4)
    assert _ou(found["entropy.half"]) == pytest.approx(half, abs=1e-8)
    phi = brentq(lambda t: _kept(t) - 0.75, 3, 4)
    assert _ou(found["kept.0.75"]) == pytest.approx(phi, abs=1e-8)
    for edge, level in {"start": 0.1, "centre": 0.5, "end": 0.9}.items():
        at = brentq(lambda t, level=level: 2 * _kept(t) - 1 - level, 1, 6)
        assert _ou(found[f"retention.{edge}"]) == pytest.approx(at, abs=1e-8)


def test_closed_forms(found):
    assert _ou(found["bimodal"]) == pytest.approx(np.log(D) / 2, abs=1e-9)
    assert _ou(found["speciation"]) == pytest.approx(np.log(D + 1) / 2, abs=1e-9)
    assert _ou(found["speciation.classes"]) == pytest.approx(np.log(D) / 2, abs=1e-9)
    assert _ou(found["stability.sde.vp"]) == pytest.approx(np.log(2 * D) / 2, abs=1e-9)
    # in VE coordinates stability is lost where the density itself parts
    assert found["stability.sde.ve"].logsnr == pytest.approx(found["bimodal"].logsnr, abs=1e-9)


def test_definitions_keep_their_order_and_their_clocks(found):
    schedule = tp.VP()
    rows = table(list(found.values()), schedule).set_index("name")
    there = rows[np.isfinite(rows.logsnr)]
    assert there.logsnr.is_monotonic_increasing
    assert list(rows.index[-1:]) == ["stability.ode.vp"]
    np.testing.assert_allclose(schedule.logsnr(there.t.tolist()).numpy(), there.logsnr, atol=1e-9)
    assert (rows.source != "").all()
    assert (rows.definition != "").all()


def test_ou_time_is_inverted_by_log_snr():
    t = np.array([1e-6, 0.3, 3.0, 40.0])
    np.testing.assert_allclose(ou_from_logsnr(logsnr_from_ou(t)), t, rtol=1e-9)
    np.testing.assert_allclose(logsnr_from_ou(t[:3]), -np.log(np.expm1(2 * t[:3])), rtol=1e-12)
    assert np.isnan(logsnr_from_ou(0.0))
