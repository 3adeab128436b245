"""Gaussian random fields: spectrum, stationarity, the Wiener filter mode by mode."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import turningpoint as tp
from turningpoint.diffusion.exact import ExactDenoiser
from turningpoint.models import fingerprint
from turningpoint.models.field import frequencies, load


def by_loops(size, exponent, std):
    """The covariance of two pixels as a sum of cosines, (size^2, size^2), without any transform."""
    cycles = [k if k < size / 2 else k - size for k in range(size)]
    power = {
        (a, b): 0.0 if a == b == 0 else (a * a + b * b) ** (-exponent / 2) for a in cycles for b in cycles
    }
    total = sum(power.values())
    places = [(y, x) for y in range(size) for x in range(size)]
    return np.array(
        [
            [
                std**2
                / total
                * sum(
                    p * np.cos(2 * np.pi * (ky * (y - v) + kx * (x - u)) / size)
                    for (ky, kx), p in power.items()
                )
                for v, u in places
            ]
            for y, x in places
        ]
    )


@given(size=st.sampled_from([3, 4]), exponent=st.floats(0, 4), std=st.floats(0.1, 2), logsnr=st.floats(-5, 5))
@settings(max_examples=10, deadline=None)
def test_beside_the_dense_gaussian(size, exponent, std, logsnr):
    model = load(size=size, channels=2, exponent=exponent, std=std)
    d = size**2
    dense = np.kron(np.eye(2), by_loops(size, exponent, std))
    np.testing.assert_allclose(model.covariance(), dense, rtol=0, atol=1e-6 * std**2)  # float32 variances
    dense = model.covariance().numpy()
    np.testing.assert_allclose(np.diag(dense), std**2, rtol=1e-6)
    t = model.schedule.t(logsnr=logsnr)[None]
    alpha, sigma = float(model.schedule.alpha(t)), float(model.schedule.sigma(t))
    noisy = alpha**2 * dense + sigma**2 * np.eye(2 * d)
    x = torch.randn(1, 2, size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    flat = x.flatten().numpy()
    solved = np.linalg.solve(noisy, flat)
    np.testing.assert_allclose(model(x, t).flatten(), alpha * dense @ solved, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(model.score(x, t).flatten(), -solved, rtol=1e-6, atol=1e-8)
    log_density = -(flat @ solved + np.linalg.slogdet(2 * np.pi * noisy)[1]) / 2
    np.testing.assert_allclose(model.log_density(x, t), log_density, rtol=1e-6, atol=1e-8)
    jacobian = model.jacobian(x, t)
    np.testing.assert_allclose(jacobian[0], alpha * dense @ np.linalg.inv(noisy), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(jacobian, ExactDenoiser.jacobian(model, x, t), rtol=1e-6, atol=1e-9)


def test_samples_have_the_spectrum():
    """Power of fft2, which knows nothing of Hartley; 4 errors, for all 256 modes at once 5.5."""
    model, n = load(size=16, exponent=3, std=0.4), 500
    x, label = model.sample(n, seed=2)
    assert not label.any()
    power = np.abs(np.fft.fft2(x[:, 0].double().numpy(), norm="ortho")) ** 2
    k = frequencies(16).numpy()
    variances = np.where(k > 0, np.maximum(k, 1) ** -3.0, 0)
    variances *= 0.4**2 / variances.mean()
    error = power.std(0) / n**0.5
    assert (np.abs(power.mean(0) - variances) <= 5.5 * error + 1e-9).all()
    squares = x.double().square().mean((1, 2, 3))
    assert abs(squares.mean() - 0.16) < 4 * squares.std() / n**0.5
    assert x.sum((1, 2, 3)).abs().max() < 1e-4  # lambda_0 = 0


def test_stationary():
    """Posterior means of shifted images are shifted posterior means."""
    model = load(size=8)
    x, t = model.sample(3)[0].double(), torch.full((3,), 0.3)
    torch.testing.assert_close(model(x.roll((2, 5), (2, 3)), t), model(x, t).roll((2, 5), (2, 3)))


def test_modes_emerge_at_the_root_of_their_variance():
    """sigma / alpha = sqrt(lambda_k): half of the gain, for plane waves of three frequencies."""
    model = load(size=16, std=0.7, schedule="edm")
    frequency, variance = model.spectrum()
    assert (frequency.diff() > 0).all()
    torch.testing.assert_close(variance * frequency**2, variance[0].expand_as(variance), rtol=1e-6, atol=0)
    x = torch.arange(16).double()
    for k in (1, 3, 6):
        wave = torch.cos(2 * torch.pi * k * x / 16 + 0.4).expand(1, 1, 16, 16)
        level = variance[frequency == k].sqrt()
        answer = model(wave, model.schedule.t(sigma=level))
        torch.testing.assert_close(answer, wave / 2, rtol=0, atol=1e-9)


def test_spectrum_counts_every_mode_but_the_mean():
    model = load(size=6)
    frequency, variance = model.spectrum()
    multiplicity = (frequencies(6)[..., None] == frequency).sum((0, 1))
    assert multiplicity.sum() == 35
    assert (multiplicity * variance).sum().item() == pytest.approx(36 * 0.25, rel=1e-6)


def test_as_a_model(refuses):
    model = tp.load("field?size=8&channels=3&exponent=1.5&std=0.3")
    assert (model.shape, model.n_classes) == ((3, 8, 8), None)
    assert model.starting_images()[1] is None
    assert model.classifier() is None
    assert torch.equal(model.posterior(torch.zeros(2, 3, 8, 8), torch.ones(2)), torch.ones(2, 1).double())
    run = tp.uturn(model, items=4, times=[0.3, 0.6], sampler="ddpm", steps=10, progress=None).measure(
        "pixels"
    )
    assert np.isfinite(run.images).all()
    prints = {
        fingerprint(load(**s)) for s in ({}, {"size": 30}, {"channels": 2}, {"exponent": 2.1}, {"std": 0.51})
    }
    assert len(prints) == 5
    for settings_, match in [
        ({"size": 1}, "size is 1; accepted: a whole number of at least 2"),
        ({"channels": 0}, "channels is 0"),
        ({"std": 0}, "std is 0; accepted: a number above 0"),
        ({"exponent": "steep"}, "exponent is 'steep'"),
        ({"schedule": "quick"}, "schedule is 'quick'"),
    ]:
        with refuses(match):
            load(**settings_)
