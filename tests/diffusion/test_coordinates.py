"""Samplers in VP's and VE's coordinates: the ODE by its definition, its exact solution; levels of other programs."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import turningpoint as tp
from turningpoint.diffusion.coordinates import EulerVP
from turningpoint.diffusion.discretization import (
    RANGES,
    iddpm_levels,
    karras_grid,
    noise_levels,
    range_of,
    vp_betas,
    vp_sigma,
)
from turningpoint.diffusion.sampler import SAMPLERS, sampler
from turningpoint.diffusion.schedule import EDM, VP, DiscreteVP, RectifiedFlow

NAMES = ("euler_vp", "heun_vp", "euler_ve", "heun_ve")
CLOCKS = {
    "vp": VP(),
    "edm": EDM(),
    "ddpm": DiscreteVP.named("linear"),
    "cosine": DiscreteVP.named("cosine"),
    "flow": RectifiedFlow(),
}
VARIANCE = 0.7**2


def gaussian(clock):
    """The denoiser of N(0, VARIANCE)."""

    def denoise(x, t):
        alpha, sigma = clock.alpha(t)[:, None], clock.sigma(t)[:, None]
        return alpha * VARIANCE * x / (alpha**2 * VARIANCE + sigma**2)

    return denoise


def flowed(clock, x, t, s):
    """The ODE's exact solution for that data: the state keeps its place among the marginal's quantiles."""
    alpha, sigma = clock.alpha(torch.stack([t, s])), clock.sigma(torch.stack([t, s]))
    std = (alpha**2 * VARIANCE + sigma**2).sqrt()
    return x * (std[1] / std[0])[:, None]


def by_definition(name, x_hat, denoise, r_t, r_s, betas):
    """One step of eq. 4 of Karras et al. 2022 in x / alpha, with derivatives by autograd."""
    kind = name.split("_")[1]

    def sigma(tau):
        return tau.sqrt() if kind == "ve" else (betas[0] * tau**2 / 2 + betas[1] * tau).expm1().sqrt()

    def scale(tau):
        return torch.ones_like(tau) if kind == "ve" else (1 + sigma(tau) ** 2).rsqrt()

    def tau_of(r):
        low, high = torch.zeros(1).double(), torch.full((1,), 2.0 * max(1.0, float(r) ** 2)).double()
        for _ in range(200):  # bisection: no formula of the inverse
            middle = (low + high) / 2
            low, high = (middle, high) if float(sigma(middle)) < r else (low, middle)
        return (low + high) / 2

    def slope(y, tau):
        tau = tau.clone().requires_grad_(True)
        (d_sigma,) = torch.autograd.grad(sigma(tau), tau)
        d_scale = torch.autograd.grad(scale(tau), tau)[0] if kind == "vp" else torch.zeros(1)
        tau, s, r = tau.detach(), scale(tau).detach(), sigma(tau).detach()
        return (d_sigma / r + d_scale / s) * y - d_sigma * s / r * denoise(y / s, r)

    tau_t, tau_s = tau_of(r_t), tau_of(r_s)
    y, h = scale(tau_t) * x_hat, tau_s - tau_t
    d = slope(y, tau_t)
    end = y + h * d
    if name.startswith("heun"):
        end = y + h * (d + slope(end, tau_s)) / 2
    return end / scale(tau_s)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_a_step_is_that_of_the_ode_as_it_is_written(name, clock):
    t, s = torch.tensor([0.8]).double(), torch.tensor([0.55]).double()
    ratio_t, ratio_s = (float(clock.sigma(u) / clock.alpha(u)) for u in (t, s))
    ends = 0.01, 150.0

    def at_sigma(x_hat, r):  # an arbitrary denoiser of x / alpha at sigma / alpha
        return torch.tanh(x_hat) / (1 + r)

    def denoise(x, time):
        alpha, sigma = clock.alpha(time)[:, None], clock.sigma(time)[:, None]
        return at_sigma(x / alpha, sigma / alpha)

    x = torch.tensor([[0.3, -2.0, 5.0]]).double()
    made = sampler(name, **({"sigma_min": ends[0], "sigma_max": ends[1]} if name.endswith("vp") else {}))
    got = made.step(denoise, x, t, s, clock)
    x_hat = x / float(clock.alpha(t))
    want = by_definition(name, x_hat, at_sigma, ratio_t, ratio_s, vp_betas(*ends)) * float(clock.alpha(s))
    assert torch.allclose(got, want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clock", [VP(), EDM()], ids=["vp", "edm"])
def test_the_error_falls_with_the_order_of_the_method(name, clock):
    """Between a time and another one: Euler's error halves with the step, Heun's falls to a quarter."""
    errors = []
    for steps in (64, 128):
        ratio = torch.linspace(math.log(10.0), math.log(0.1), steps + 1).double().exp()
        times = clock.t(logsnr=-2 * ratio.log())
        x = torch.tensor([[1.0]]).double() * clock.sigma(times[:1])
        state = x
        made = sampler(name)
        for t, s in pairwise(times):
            state = made.step(gaussian(clock), state, t[None], s[None], clock)
        errors.append(float((state - flowed(clock, x, times[:1], times[-1:])).abs()))
    order = math.log2(errors[0] / errors[1])
    assert order == pytest.approx(2 if name.startswith("heun") else 1, abs=0.15)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_many_steps_are_the_exact_solution(name, clock):
    """From sigma / alpha = 80 to the data, which Gaussian marginals reach at their own quantiles."""
    steps = 120 if name.startswith("heun") else 600
    logsnr = torch.linspace(-2 * math.log(80.0), -2 * math.log(0.01), steps).double()
    times = torch.cat([clock.t(logsnr=logsnr), torch.zeros(1).double()])
    x = torch.tensor([[-20.0, 0.0, 3.0]]).double() * clock.alpha(times[:1])
    state, made = x, sampler(name)
    for t, s in pairwise(times):
        state = made.step(gaussian(clock), state, t[None], s[None], clock)
    want = flowed(clock, x, times[:1], times[-1:])
    # a step of ln(8000) / 600 in log sigma loses at most its half; Heun's, some of its square
    assert torch.allclose(state, want, rtol=0.02 if name.startswith("heun") else 0.1)


def test_items_at_their_own_times_do_not_disturb_each_other():
    clock = VP()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, generator=generator)
    t, s = torch.tensor([1.0, 0.5, 0.02]), torch.tensor([0.9, 0.2, 0.0])
    for name in NAMES:
        made = sampler(name)
        together = made.step(gaussian(clock), x, t, s, clock)
        alone = [
            made.step(gaussian(clock), x[i : i + 1], t[i : i + 1], s[i : i + 1], clock) for i in range(3)
        ]
        assert torch.allclose(together, torch.cat(alone), atol=1e-6)
        assert together.dtype == torch.float32


def test_from_nothing_of_the_signal_and_to_the_data():
    """alpha = 0 at t = 1: the first step is ddim's, and every number is finite."""
    table = DiscreteVP.named("linear", 100, 1e-3, 0.2).alphas_cumprod
    clock = DiscreteVP.from_alphas_cumprod(torch.cat([table[:-1], torch.zeros(1)]))
    x = torch.tensor([[0.5, -1.0]])
    t, s = torch.tensor([1.0]), torch.tensor([0.75])
    for name in NAMES:
        got = sampler(name).step(gaussian(clock), x, t, s, clock)
        assert torch.allclose(got, sampler("ddim").step(gaussian(clock), x, t, s, clock), atol=1e-6)
        assert torch.isfinite(sampler(name).step(gaussian(clock), x, s, torch.zeros(1), clock)).all()


def test_last_steps_by_hand():
    """To sigma = 0, Euler's step over tau = sigma^2 ends half way between the state and the estimate."""
    clock = EDM()
    x, t = torch.tensor([[3.0]]).double(), clock.t(sigma=2.0)[None]
    for name in ("euler_ve", "heun_ve"):
        got = sampler(name).step(lambda x, t: 0 * x + 1, x, t, torch.zeros(1).double(), clock)
        assert float(got) == pytest.approx((3.0 + 1.0) / 2)


def test_the_range_that_vp_is_fitted_to(refuses):
    clock = EDM(0.02, 100.0)
    assert range_of(clock) == pytest.approx((0.02, 100.0))
    assert range_of(RectifiedFlow())[1] == pytest.approx(160.0)
    beta_d, beta_min = vp_betas(0.02, 100.0)
    assert vp_sigma(np.array([1e-3, 1.0]), beta_d, beta_min) == pytest.approx([0.02, 100.0], rel=1e-9)
    model = tp.load("gaussians?dim=2")
    suited = sampler("euler_vp").suited(model)
    assert suited.config() == {"name": "euler_vp"} | dict(
        zip(("sigma_min", "sigma_max"), range_of(model.schedule), strict=True)
    )
    assert sampler(**suited.config()).ends == suited.ends
    for low, high in ((5.0, 80.0), (3.0, 2.0), (0.0, 1.0)):
        with refuses("range of sigma"):
            EulerVP(low, high)
    with refuses("both or none"):
        sampler("heun_vp", sigma_min=0.1)
    with refuses("takes no settings"):
        sampler("heun_ve", sigma_min=0.1)


def test_the_samplers_are_found_by_their_names():
    assert set(NAMES) <= set(SAMPLERS.names())
    for name in NAMES:
        run = tp.generate("gaussians?dim=2", 3, sampler=name, steps=6, progress=None)
        assert np.isfinite(np.asarray(run.images)).all()


# -- noise levels ------------------------------------------------------------------------------------------


def test_levels_by_their_formulas():
    i = np.arange(8) / 7
    edm = (80 ** (1 / 7) + i * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert noise_levels("edm", 0.002, 80, 8) == pytest.approx(edm, rel=1e-12)
    ve = (100.0**2 * (0.02**2 / 100.0**2) ** i) ** 0.5
    assert noise_levels("ve", 0.02, 100, 8) == pytest.approx(ve, rel=1e-12)
    t = 1 + i * (1e-3 - 1)
    vp = (np.exp(19.9 * t**2 / 2 + 0.1 * t) - 1) ** 0.5
    assert noise_levels("vp", *RANGES["vp"], 8) == pytest.approx(vp, rel=1e-9)
    for kind, (low, high) in RANGES.items():
        levels = noise_levels(kind, low, high, 30)
        assert (np.diff(levels) < 0).all()
        assert levels.min() >= low * (1 - 1e-9)
        assert levels.max() <= high * (1 + 1e-9)


def test_the_levels_of_iddpm_are_those_of_its_schedule():
    """sigma_j^2 = (1 - abar_j) / abar_j, abar the product of 1 - beta with betas of the cosine held below 0.999."""
    u = iddpm_levels()
    clock = DiscreteVP.named("cosine")
    sigma = ((1 - clock.alphas_cumprod) / clock.alphas_cumprod).sqrt().numpy()
    assert u[1:-1][::-1][:900] == pytest.approx(sigma[:900], rel=0.05)
    inside = u[(u >= 0.002) & (u <= 81)]
    chosen = noise_levels("iddpm", 0.002, 81.0, 8)
    assert set(chosen) <= set(inside)
    assert chosen[0] == inside[0]
    assert chosen[-1] == inside[-1]


def test_levels_that_cannot_be(refuses):
    with refuses("kind of noise levels"):
        noise_levels("cosine", 0.1, 1, 4)
    with refuses("noise level of iDDPM"):
        noise_levels("iddpm", 1e-5, 2e-5, 4)
    with refuses("steps is 0"):
        karras_grid(EDM(), "ve", 0)
    with refuses("between 0 and 1"):
        karras_grid(EDM(), "ve", 4, (0.02, 100.0))
    assert karras_grid(EDM(), "ve", 1).times(EDM()).tolist() == [1.0, 0.0]
