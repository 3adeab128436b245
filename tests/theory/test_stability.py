"""Loss of stability in four coordinate systems, against its closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import turningpoint as tp
from turningpoint.theory import theory
from turningpoint.theory.stability import GAINS, critical_alpha, loss_of_stability

SQRT2 = math.sqrt(2)
DELTAS = tp.load("deltas")


def _pair(h, s, **more):
    return tp.load("gaussians", means=[[-h], [h]], cov=s * s, **more)


def _curvature(drift, variance, alpha_sq):
    """Of the drift at x = 0, with the posterior's variance there; each line is the chain rule written out."""
    sigma_sq = 1 - alpha_sq
    score = alpha_sq * variance / sigma_sq**2 - 1 / sigma_sq
    tau_sq = sigma_sq / alpha_sq
    return {
        "sde.vp": 0.5 + score,
        "ode.vp": (1 + score) / 2,
        "sde.ve": (variance / tau_sq - 1) / tau_sq,
        "ode.ve": (variance / tau_sq - 1) / tau_sq / 2,
    }[drift]


def _variance_at_0(h, s, alpha_sq):
    v = alpha_sq * s * s + 1 - alpha_sq
    return s * s * (1 - alpha_sq) / v + (h * (1 - alpha_sq) / v) ** 2


class TestTwoDeltas:
    def test_reverse_sde_in_vp(self):
        logsnr, _ = loss_of_stability(DELTAS, "sde.vp")
        assert logsnr == pytest.approx(-math.log(2) / 2, abs=1e-9)
        theta = math.sqrt(1 / (1 + math.exp(-logsnr)))
        assert theta == pytest.approx(math.sqrt(SQRT2 - 1), abs=1e-9)
        assert round(theta, 6) == 0.643594

    @pytest.mark.parametrize(
        ("schedule", "clock", "published"),
        [
            ("vp", "t", 0.29264),
            ("linear", "step", 292),
            ("scaled_linear", "step", 406),
            ("cosine", "t", 0.551),
        ],
    )
    def test_on_the_clocks_of_models(self, schedule, clock, published):
        model = tp.load("deltas", schedule=schedule)
        logsnr, _ = loss_of_stability(model, "sde.vp")
        t = float(model.schedule.t(logsnr=logsnr))
        if clock == "t":
            assert t == pytest.approx(published, abs=0.5 * 10 ** -len(str(published)[2:]))
        else:
            assert abs(float(model.schedule.native(t)) - published) < 1  # steps are whole
        if schedule == "vp":
            assert round(1 - t, 5) == 0.70736

    def test_ve_and_the_ode(self):
        for drift in ("sde.ve", "ode.ve"):
            assert loss_of_stability(DELTAS, drift) == (pytest.approx(0, abs=1e-9), "")
        logsnr, reason = loss_of_stability(DELTAS, "ode.vp")
        assert math.isnan(logsnr)
        assert "unstable at every noise level" in reason

    def test_names(self):
        found = {p.name: p for p in theory(DELTAS) if p.name.startswith("stability.")}
        assert set(found) == {f"stability.{drift}" for drift in GAINS}
        assert "VP coordinates" in found["stability.sde.vp"].definition
        assert [name for name, p in found.items() if not p.exists] == ["stability.ode.vp"]


@settings(max_examples=20, deadline=None)
@given(variance=st.floats(0.01, 1e4))
def test_root_for_a_constant_posterior_variance(variance):
    a = 1 - critical_alpha(variance) ** 2
    assert 0 < a < 1
    assert a * a / 2 - (1 + variance) * a + variance == pytest.approx(0, abs=1e-9 * max(1, variance))


def test_root_far_out():
    assert critical_alpha(1e8) ** 2 * 2e8 == pytest.approx(1, rel=1e-7)


@settings(max_examples=20, deadline=None)
@given(h=st.floats(0.3, 50), s=st.floats(0, 1.2))
def test_pairs_lose_stability_where_the_drift_s_slope_changes_sign(h, s):
    for drift in GAINS:
        logsnr, reason = loss_of_stability(_pair(h, s), drift)
        grid = np.linspace(-2 * math.log(math.hypot(h, s)) - 11, -2 * math.log(math.hypot(h, s)) + 11, 2001)
        alpha_sq = 1 / (1 + np.exp(-grid))
        slope = np.array([_curvature(drift, _variance_at_0(h, s, a), a) for a in alpha_sq])
        if reason:
            one_sign = (slope > 0).all() or (slope < 0).all()
            late = np.flatnonzero(np.diff(np.sign(slope)))
            assert one_sign or slope[0] > 0 or grid[late[0]] > grid[-1] - 1
        else:
            a = 1 / (1 + math.exp(-logsnr))
            size = np.abs(slope).min() + abs(_curvature(drift, 0.0, a))
            assert _curvature(drift, _variance_at_0(h, s, a), a) == pytest.approx(0, abs=1e-6 * size)
            assert (slope[grid < logsnr - 1e-6] < 0).all()  # the first change, from noise on


def test_long_means_of_unit_variance():
    for d in (16, 1024):
        logsnr, _ = loss_of_stability(_pair(math.sqrt(d), 1.0), "sde.vp")
        assert logsnr == pytest.approx(-math.log(2 * d - 1), abs=1e-9)  # t = 1/2 ln 2d


def test_four_corners_by_their_symmetry():
    """Deltas at +-a on two axes: the posterior's variance at 0 is a^2 / 2 along both."""
    model = tp.load("deltas", points=[[2.0, 0], [-2.0, 0], [0, 2.0], [0, -2.0]])
    logsnr, _ = loss_of_stability(model, "sde.vp")
    assert logsnr == pytest.approx(2 * math.log(critical_alpha(2.0)) - math.log(1 - critical_alpha(2.0) ** 2))
    assert loss_of_stability(model, "sde.ve")[0] == pytest.approx(-math.log(2.0))


def test_full_covariances_follow_the_same_path():
    """Turned, squeezed copies of a pair: no closed form is used, and the discriminant axis decides."""
    rng = np.random.default_rng(1)
    q = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    cov = q @ np.diag([0.25, 0.1, 0.05]) @ q.T
    means = [-1.5 * q[:, 0], 1.5 * q[:, 0]]
    model = tp.load("gaussians", means=means, cov=np.stack([cov, cov]))
    for drift in GAINS:
        logsnr, reason = loss_of_stability(model, drift)
        expected, why = loss_of_stability(_pair(1.5, 0.5), drift)
        assert reason == why
        assert logsnr == pytest.approx(expected, abs=1e-7, nan_ok=True)


def test_without_symmetry_the_branch_stays_stable():
    for model in (_pair(1.0, 0.0, weights=[0.4, 0.6]), _pair(2.0, 0.3, weights=[0.45, 0.55])):
        for drift in ("sde.vp", "sde.ve"):
            assert loss_of_stability(model, drift)[1] == "it stays stable down to no noise"


def test_coordinates_know_their_origin():
    """A pair moved away from 0 keeps its VE point, in VP the symmetry is gone."""
    moved = tp.load("gaussians", means=[[0.0, 0.0], [1.0, 0.0]], cov=0.01)
    centred = tp.load("gaussians", means=[[-0.5, 0.0], [0.5, 0.0]], cov=0.01)
    assert loss_of_stability(moved, "sde.ve")[0] == pytest.approx(loss_of_stability(centred, "sde.ve")[0])
    assert loss_of_stability(centred, "sde.vp")[1] == ""
    assert loss_of_stability(moved, "sde.vp")[1] != ""


def test_one_gaussian():
    wide = tp.load("gaussians", means=[[0.0, 0.0]], cov=[[3.0, 0.5]])
    logsnr, _ = loss_of_stability(wide, "sde.vp")
    a = 1 / (1 + math.exp(-logsnr))
    assert _curvature("sde.vp", 3 * (1 - a) / (a * 3 + 1 - a), a) == pytest.approx(0, abs=1e-12)
    for drift in ("sde.ve", "ode.ve"):
        assert "stable at every noise level" in loss_of_stability(wide, drift)[1]
    assert "stable at every noise level" in loss_of_stability(tp.load("field", size=8, std=0.1), "sde.vp")[1]


def test_models_that_are_not_followed(refuses):
    assert loss_of_stability(tp.load("digits"), "sde.vp") is None
    with refuses("drift is 'sde'; accepted: sde.vp, ode.vp, sde.ve, ode.ve"):
        loss_of_stability(DELTAS, "sde")
