"""Point masses: the tanh of two of them, closed forms of any number, the limit of narrow Gaussians."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import softmax

import turningpoint as tp
from turningpoint.diffusion.exact import ExactDenoiser
from turningpoint.models.deltas import load
from turningpoint.models.gaussians import load as gaussians


def noise_levels(model, logsnr, count=1):
    t = model.schedule.t(logsnr=logsnr).expand(count)
    return t, float(model.schedule.alpha(t)[0]), float(model.schedule.sigma(t)[0])


@given(
    logsnr=st.floats(-8, 8),
    x=st.floats(-3, 3),
    a=st.floats(0.1, 4),
    schedule=st.sampled_from(["vp", "edm", "flow"]),
)
@settings(max_examples=50, deadline=None)
def test_two_are_a_tanh(logsnr, x, a, schedule):
    model = load(a=a, schedule=schedule)
    t, alpha, sigma = noise_levels(model, logsnr)
    x_t = torch.tensor([[x]], dtype=torch.float64)
    slope = math.tanh(alpha * a * x / sigma**2)
    logit = (alpha * a + abs(x)) ** 2 / sigma**2  # of which a float64 keeps 16 digits
    assert model(x_t, t).item() == pytest.approx(a * slope, rel=1e-9, abs=1e-15 * a * (1 + logit))
    jacobian = alpha * a**2 / sigma**2 / math.cosh(min(alpha * a * abs(x) / sigma**2, 300)) ** 2
    assert model.jacobian(x_t, t).item() == pytest.approx(jacobian, rel=1e-6, abs=1e-9)


@given(theta=st.floats(0.05, 0.99), x=st.floats(-3, 3))
@settings(max_examples=30, deadline=None)
def test_score_of_raya_and_ambrogioni(theta, x):
    """Two deltas at +-1 under VP with signal theta."""
    model = load()
    t = model.schedule.t(alpha=theta)[None]
    wanted = (-x + theta * math.tanh(theta * x / (1 - theta**2))) / (1 - theta**2)
    score = model.score(torch.tensor([[x]], dtype=torch.float64), t)
    assert score.item() == pytest.approx(wanted, rel=1e-8, abs=1e-10)


def test_where_the_drift_at_zero_loses_its_stability():
    """d/dx (x/2 + score) = 0 at 0: alpha = sqrt(sqrt(2) - 1), from the Jacobian alone; at any dimension."""
    for dim in (1, 3):
        model = load(dim=dim)

        def slope(alpha, model=model, dim=dim):
            t = model.schedule.t(alpha=alpha)[None]
            sigma_sq = 1 - alpha**2
            jacobian = model.jacobian(torch.zeros(1, dim, dtype=torch.float64), t)[0, 0, 0].item()
            return 1 / 2 + (alpha * jacobian - 1) / sigma_sq

        assert brentq(slope, 0.3, 0.9, xtol=1e-12) == pytest.approx(math.sqrt(math.sqrt(2) - 1), abs=1e-9)


@given(seed=st.integers(0, 10**6), logsnr=st.floats(-5, 5))
@settings(max_examples=25, deadline=None)
def test_many_points(seed, logsnr):
    draw = np.random.default_rng(seed)
    points, weights = draw.standard_normal((5, 3)), draw.uniform(0.2, 1, 5)
    model = load(points=points, weights=weights)
    t, alpha, sigma = noise_levels(model, logsnr)
    x = alpha * points[0] + sigma * draw.standard_normal(3)
    p = softmax(np.log(weights) - ((x - alpha * points) ** 2).sum(1) / (2 * sigma**2))
    x_t = torch.from_numpy(x)[None]
    np.testing.assert_allclose(model.posterior(x_t, t)[0], p, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(model(x_t, t)[0], p @ points, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(
        model.score(x_t, t)[0], (alpha * p @ points - x) / sigma**2, rtol=1e-8, atol=1e-8
    )
    covariance = np.cov(points.T, aweights=p, ddof=0)
    scale = alpha / sigma**2
    np.testing.assert_allclose(model.jacobian(x_t, t)[0], scale * covariance, rtol=1e-6, atol=1e-9 * scale)
    torch.testing.assert_close(
        model.jacobian(x_t, t), ExactDenoiser.jacobian(model, x_t, t), rtol=1e-6, atol=1e-8 * scale
    )


def test_limit_of_narrow_gaussians():
    points = np.random.default_rng(2).standard_normal((4, 2))
    narrow, exact = gaussians(means=points, std=1e-7), load(points=points)
    x, t = torch.tensor([[0.3, -0.4]], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    torch.testing.assert_close(exact(x, t), narrow(x, t), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(exact.log_density(x, t), narrow.log_density(x, t), rtol=1e-10, atol=0)


def test_as_a_model(refuses):
    model = tp.load("deltas?dim=2&a=1")
    assert model.means.tolist() == [[-1, 0], [1, 0]]
    assert tp.load("deltas").means.tolist() == [[-1], [1]]
    x_0, label = model.sample(8)
    assert torch.equal(x_0, model.means.float()[label])
    assert torch.equal(model.classifier()(x_0).argmax(1), label)
    run = tp.uturn("deltas?dim=2", items=6, times=[0.05, 0.5], sampler="ddpm", steps=40, progress=None)
    assert np.isin(np.round(run.images, 5), [-1, 0, 1]).all()  # every path ends on a point
    images = tp.load("deltas", points=np.full((2, 1, 3, 3), 0.5) * np.reshape([1, -1], (2, 1, 1, 1)))
    assert images.shape == (1, 3, 3)
    for settings_, match in [
        ({"points": [1, 2], "a": 1}, "a is given beside points"),
        ({"points": 1}, "points is 1"),
        ({"a": "one"}, "a is 'one'; accepted: a finite number"),
        ({"dim": 0}, "dim is 0"),
        ({"points": [1, 2], "weights": [1, -1]}, "weights are"),
    ]:
        with refuses(match):
            tp.load("deltas", **settings_)
