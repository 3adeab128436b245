"""Potentials, curvatures and fixed points: the equations of Raya & Ambrogioni, and finite differences."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

import turningpoint as tp
from turningpoint.theory.potential import FORMS, bifurcation, curvature_at, drift_at, fixed_points, potential
from turningpoint.theory.stability import loss_of_stability

DELTAS = tp.load("deltas")
SKEWED = tp.load("gaussians", means=[-1.0, 0.2, 1.5], cov=[0.1, 0.02, 0.3], weights=[0.2, 0.3, 0.5])


def _theta(t):
    return math.exp(-t * t * (20 - 0.1) / 4 - 0.1 * t / 2)


@pytest.mark.parametrize("t", [0.05, 0.2, 0.29264, 0.4, 0.8])
def test_curvature_at_the_symmetric_point_is_eq_8(t):
    theta = _theta(t)
    eq_8 = -0.3 * (0.5 + (2 * theta**2 - 1) / (theta**2 - 1) ** 2)
    assert curvature_at(DELTAS, [0.0], t, beta=0.3)[0] == pytest.approx(eq_8, abs=1e-9 * (1 + abs(eq_8)))


@pytest.mark.parametrize("t", [0.1, 0.2, 0.28, 0.35])
def test_fixed_points_solve_eq_10(t):
    theta = _theta(t)

    def eq_10(x):
        return (theta**2 + 1) * x + 2 * theta * math.tanh(x * theta / (theta**2 - 1))

    x, stable = fixed_points(DELTAS, t)
    if theta < math.sqrt(math.sqrt(2) - 1):
        assert x.tolist() == [0.0]
        assert stable.tolist() == [True]
        return
    root = brentq(eq_10, 1e-3, 3)
    np.testing.assert_allclose(x, [-root, 0, root], atol=1e-9)
    assert stable.tolist() == [True, False, True]


@settings(max_examples=20, deadline=None)
@given(
    x=st.floats(-3, 3),
    t=st.floats(0.1, 0.9),
    drift=st.sampled_from(sorted(FORMS)),
    kind=st.sampled_from(["vp", "edm", "flow", "cosine"]),
)
def test_drift_and_curvature_are_derivatives_of_the_potential(x, t, drift, kind):
    model = tp.load("gaussians", means=[-1.0, 0.2, 1.5], cov=[0.1, 0.02, 0.3], schedule=kind)
    t = t if kind != "edm" else 0.2 + 0.5 * t  # sigma from 0.0004 sigma_max on
    step = 1e-4
    u = potential(model, [x - step, x, x + step], t, drift=drift, beta=0.7)
    slope, bend = (u[2] - u[0]) / (2 * step), (u[2] - 2 * u[1] + u[0]) / step**2
    b = drift_at(model, [x - step, x, x + step], t, drift=drift, beta=0.7)
    scale = 1 + np.abs(b).max() + abs(curvature_at(model, [x], t, drift=drift)[0])
    assert b[1] == pytest.approx(-slope, abs=1e-4 * scale)
    found = curvature_at(model, [x], t, drift=drift, beta=0.7)[0]
    assert found == pytest.approx(-(b[2] - b[0]) / (2 * step), abs=1e-3 * scale)
    if abs(bend) < 1e3:  # beyond, the second difference has lost its digits
        assert found == pytest.approx(bend, abs=1e-3 * scale)


def test_potentials_do_not_depend_on_the_model_s_schedule():
    x = [-1.2, -0.3, 0.1, 0.8]
    found = []
    for kind in ("vp", "edm", "flow"):
        model = tp.load("gaussians", means=[-1.0, 1.0], cov=0.1, schedule=kind)
        u = potential(model, x, float(model.schedule.t(logsnr=-0.5)))
        found.append(u - u[0])
    np.testing.assert_allclose(found[1], found[0], atol=1e-9)
    np.testing.assert_allclose(found[2], found[0], atol=1e-9)


def test_the_drift_of_the_reverse_sde_is_what_the_paper_says():
    x, t = np.array([-0.7, 0.2, 1.4]), 0.3
    theta = _theta(t)
    score = (-x + theta * np.tanh(theta * x / (1 - theta**2))) / (1 - theta**2)
    np.testing.assert_allclose(drift_at(DELTAS, x, t), x / 2 + score, atol=1e-12)
    np.testing.assert_allclose(drift_at(DELTAS, x, t, drift="ode.vp"), (x + score) / 2, atol=1e-12)


def test_several_entries():
    model = tp.load("gaussians", means=[[1.0, 0.0], [-1.0, 0.0]], cov=[[[0.3, 0.1], [0.1, 0.2]]] * 2)
    x, step = np.array([[0.2, -0.4]]), 1e-4
    moved = x + step * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
    u = potential(model, moved, 0.3)
    b = drift_at(model, x, 0.3)
    np.testing.assert_allclose(b[0], -np.array([u[0] - u[1], u[2] - u[3]]) / (2 * step), atol=1e-6)
    hessian = -(drift_at(model, moved[::2], 0.3) - drift_at(model, moved[1::2], 0.3)) / (2 * step)
    assert curvature_at(model, x, 0.3)[0] == pytest.approx(np.linalg.eigvalsh(hessian)[0], abs=1e-6)


def test_the_branches_part_where_stability_is_lost():
    for drift in ("sde.vp", "sde.ve"):
        at = float(DELTAS.schedule.t(logsnr=loss_of_stability(DELTAS, drift)[0]))
        rows = bifurcation(DELTAS, [at - 2e-3, at + 2e-3], drift=drift)
        assert rows.groupby("t").x.count().tolist() == [3, 1]
    rows = bifurcation(DELTAS, np.linspace(0.05, 0.95, 7), drift="ode.vp")
    assert (rows.groupby("t").x.count() == 3).all()  # never one well
    assert not rows[rows.x == 0].stable.any()


def test_wells_and_hills_alternate():
    for t in (0.02, 0.1, 0.3):
        x, stable = fixed_points(SKEWED, t)
        assert len(x) % 2 == 1
        assert stable.tolist() == [k % 2 == 0 for k in range(len(x))]
        np.testing.assert_allclose(drift_at(SKEWED, x, t), 0, atol=1e-6)
    assert len(fixed_points(SKEWED, 0.02)[0]) == 5


def test_bad_input(refuses):
    with refuses("drift is 'vp'; accepted"):
        potential(DELTAS, [0.0], 0.3, drift="vp")
    with refuses("t is 0; accepted: a time above 0"):
        fixed_points(DELTAS, 0)
    with refuses(r"items have shape \(2,\); accepted: one entry"):
        fixed_points(tp.load("deltas", dim=2), 0.3)
    with refuses(r"x has shape \(2,\); accepted: \(N, 2\)"):
        potential(tp.load("deltas", dim=2), [0.0, 1.0], 0.3)
