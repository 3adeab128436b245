"""Clocks: published values, equality with diffusers, and every conversion there and back."""

import math

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from turningpoint.diffusion.grid import Grid
from turningpoint.diffusion.schedule import EDM, VP, DiscreteVP, RectifiedFlow

CLOCKS = {
    "vp": VP(),
    "vp flat": VP(2.0, 2.0),
    "linear": DiscreteVP.named("linear"),
    "scaled_linear": DiscreteVP.named("scaled_linear"),
    "cosine": DiscreteVP.named("cosine"),
    "edm": EDM(),
    "flow": RectifiedFlow(),
}
clocks = pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS.keys())
times = st.floats(1e-3, 1.0)

# sigma = sqrt((1 - abar) / abar) and log-SNR as printed, for t/T of a thousand steps
CONVERSION = {
    ("linear", 0.2): ("0.72", "0.66"),
    ("linear", 0.4): ("2.03", "-1.42"),
    ("linear", 0.5): ("3.42", "-2.46"),
    ("linear", 0.6): ("6.14", "-3.63"),
    ("linear", 0.7): ("11.9", "-4.96"),
    ("linear", 0.8): ("25.5", "-6.48"),
    ("scaled_linear", 0.2): ("0.57", "1.13"),
    ("scaled_linear", 0.4): ("1.16", "-0.30"),
    ("scaled_linear", 0.5): ("1.61", "-0.96"),
    ("scaled_linear", 0.6): ("2.28", "-1.65"),
    ("scaled_linear", 0.7): ("3.32", "-2.40"),
    ("scaled_linear", 0.8): ("5.09", "-3.25"),
    ("cosine", 0.2): ("0.34", "2.18"),
    ("cosine", 0.4): ("0.74", "0.61"),
    ("cosine", 0.5): ("1.01", "-0.02"),
    ("cosine", 0.6): ("1.39", "-0.66"),
    ("cosine", 0.7): ("1.98", "-1.37"),
    ("cosine", 0.8): ("3.10", "-2.27"),
}


def half_unit(printed: str) -> float:
    """Half a unit of the last printed digit."""
    return 0.5 * 10.0 ** -len(printed.partition(".")[2]) + 1e-12


class TestPublished:
    @pytest.mark.parametrize(("family", "t"), CONVERSION)
    def test_conversion_table(self, family, t):
        clock, (sigma, logsnr) = CLOCKS[family], CONVERSION[family, t]
        step = round(t * 1000) - 1
        assert float(clock.native(t)) == pytest.approx(step, abs=1e-9)
        ratio = float(clock.sigma(t) / clock.alpha(t))
        assert abs(ratio - float(sigma)) <= half_unit(sigma)
        assert abs(float(clock.logsnr(t)) - float(logsnr)) <= half_unit(logsnr)

    def test_loss_of_stability_of_two_deltas(self):
        theta = math.sqrt(math.sqrt(2) - 1)
        assert theta == pytest.approx(0.643594, abs=5e-7)
        assert float(VP().t(alpha=theta)) == pytest.approx(0.29264, abs=5e-6)
        assert float(VP().logsnr(VP().t(alpha=theta))) == pytest.approx(-0.347, abs=5e-4)
        for family, step in (("linear", 292), ("scaled_linear", 406)):
            clock = CLOCKS[family]
            assert abs(float(clock.native(clock.t(alpha=theta))) - step) < 1
        assert float(CLOCKS["cosine"].t(alpha=theta)) == pytest.approx(0.551, abs=5e-4)

    def test_vp_is_the_integral_of_its_rate(self):
        # Simpson is exact for a linear beta: -2 log alpha is its integral
        t, beta = 0.37, lambda u: 0.1 + u * 19.9
        integral = t / 6 * (beta(0) + 4 * beta(t / 2) + beta(t))
        assert float(VP().alpha(t)) == pytest.approx(math.exp(-integral / 2), rel=1e-14)


class TestDiffusers:
    @pytest.mark.parametrize(
        ("family", "name", "ends"),
        [
            ("linear", "linear", {}),
            ("scaled_linear", "scaled_linear", {"beta_start": 0.00085, "beta_end": 0.012}),
            ("cosine", "squaredcos_cap_v2", {}),
        ],
    )
    @pytest.mark.parametrize("steps", [1000, 100])
    def test_alphas_cumprod(self, family, name, ends, steps):
        theirs = diffusers.DDPMScheduler(num_train_timesteps=steps, beta_schedule=name, **ends).alphas_cumprod
        clock = DiscreteVP.named(family, steps)
        t = clock.t(native=np.arange(steps))
        # each float32 factor 1 - beta and each product adds 2^-24, relative to 1 and to the factor
        bound = (2**-24 * (1 + 1 / (1 - clock.betas))).cumsum(0)
        theirs = theirs.double()
        assert ((clock.alpha(t) ** 2 - theirs).abs() <= bound * theirs).all()
        assert ((clock.sigma(t) ** 2 - (1 - theirs)).abs() <= bound * theirs + 1e-15).all()

    def test_given_ends_of_beta(self):
        theirs = diffusers.DDPMScheduler(beta_start=3e-4, beta_end=0.01).alphas_cumprod
        clock = DiscreteVP.named("linear", 1000, 3e-4, 0.01)
        np.testing.assert_allclose(clock.alpha(clock.t(native=np.arange(1000))) ** 2, theirs, rtol=1e-4)

    @pytest.mark.parametrize("steps", [1, 2, 18, 50])
    def test_edm_noise_levels(self, steps):
        theirs = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
        theirs.set_timesteps(steps)
        ours = EDM().sigma(Grid(steps, "rho").times(EDM()))
        np.testing.assert_allclose(ours, theirs.sigmas, rtol=7 * 2**-21)  # the 7th power of float32

    def test_edm_noise_levels_of_the_multistep_scheduler(self):
        theirs = diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.01, sigma_max=50.0, rho=5.0)
        theirs.set_timesteps(12)
        clock = EDM(0.01, 50.0, 5.0)
        ours = clock.sigma(Grid(12, "rho", rho=5.0).times(clock))
        np.testing.assert_allclose(ours, theirs.sigmas, rtol=7 * 2**-21)

    def test_flow_clock(self):
        theirs = diffusers.FlowMatchEulerDiscreteScheduler()
        clock = RectifiedFlow()
        t = clock.t(native=theirs.timesteps.double())
        np.testing.assert_allclose(clock.sigma(t), theirs.sigmas, rtol=1e-6)
        np.testing.assert_allclose(clock.native(t), theirs.timesteps, rtol=1e-6)

    def test_flow_grid(self):
        theirs = diffusers.FlowMatchEulerDiscreteScheduler()
        theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / 28, 28).tolist())
        ours = RectifiedFlow().sigma(Grid(28).times(RectifiedFlow()))
        np.testing.assert_allclose(ours, theirs.sigmas, atol=1e-6)

    def test_flow_noising(self):
        theirs = diffusers.FlowMatchEulerDiscreteScheduler()
        x, z = torch.tensor([[0.3, -0.8]]), torch.tensor([[1.5, 0.2]])
        noisy = theirs.scale_noise(x, theirs.timesteps[300:301], z)
        t = RectifiedFlow().t(native=theirs.timesteps[300:301].double())
        ours = RectifiedFlow().alpha(t) * x + RectifiedFlow().sigma(t) * z
        np.testing.assert_allclose(ours, noisy, atol=1e-6)


class TestRoundTrip:
    @clocks
    @given(t=times)
    @settings(max_examples=40, deadline=None)
    def test_logsnr_and_native(self, clock, t):
        assert float(clock.t(logsnr=clock.logsnr(t))) == pytest.approx(t, rel=1e-9)
        assert float(clock.t(native=clock.native(t))) == pytest.approx(t, rel=1e-9)

    @clocks
    @given(t=times)
    @settings(max_examples=40, deadline=None)
    def test_sigma_and_alpha(self, clock, t):
        sigma, alpha = clock.sigma(t), clock.alpha(t)
        if clock.native_unit == "sigma" or isinstance(clock, RectifiedFlow) or sigma < 0.99999:
            # elsewhere 1 - sigma^2 has fewer than ten digits left
            assert float(clock.t(sigma=sigma)) == pytest.approx(t, rel=1e-9)
        if not isinstance(clock, EDM):
            assert float(clock.t(alpha=alpha)) == pytest.approx(t, rel=1e-9)

    @clocks
    @given(t=times)
    @settings(max_examples=40, deadline=None)
    def test_float32(self, clock, t):
        small = torch.tensor([t], dtype=torch.float32)
        back = clock.t(logsnr=clock.logsnr(small))
        assert back.dtype == torch.float32
        # |lambda| < 30 is known to 2^-19; t |d lambda / dt| > 0.5 turns it into a relative error of t
        assert float(back) == pytest.approx(float(small), rel=2e-5)
        for name in ("alpha", "sigma", "logsnr", "native"):
            exact = getattr(clock, name)(small.double())
            rounded = getattr(clock, name)(small)
            assert rounded.dtype == torch.float32
            torch.testing.assert_close(rounded.double(), exact, rtol=1e-5, atol=2e-5)

    @clocks
    @given(a=times, b=times)
    @settings(max_examples=40, deadline=None)
    def test_monotone(self, clock, a, b):
        early, late = min(a, b), max(a, b)
        if late - early < 1e-6:
            return
        assert clock.logsnr(early) > clock.logsnr(late)
        assert clock.sigma(early) <= clock.sigma(late)
        assert clock.alpha(early) >= clock.alpha(late)
        assert clock.native(early) < clock.native(late)

    @given(exponent=st.floats(-12, 6))
    @settings(max_examples=100, deadline=None)
    def test_edm_answers_for_every_sigma(self, exponent):
        sigma = 10.0**exponent
        t = EDM().t(sigma=sigma)
        assert t.dtype == torch.float64
        assert float(EDM().sigma(t)) == pytest.approx(sigma, rel=1e-12)
        assert float(EDM().native(EDM().t(native=sigma))) == pytest.approx(sigma, rel=1e-12)

    @given(logsnr=st.floats(-9, 25))
    @settings(max_examples=60, deadline=None)
    def test_from_the_logsnr(self, logsnr):
        for clock in CLOCKS.values():
            t = clock.t(logsnr=logsnr)
            if 0 < t <= 1:
                assert float(clock.logsnr(t)) == pytest.approx(logsnr, rel=1e-9, abs=1e-9)

    @pytest.mark.parametrize("family", DiscreteVP.FAMILIES)
    def test_float32_native_steps_are_whole(self, family):
        # an embedding looked up at step.long() must find the step it was given
        clock, steps = DiscreteVP.named(family), torch.arange(1000)
        t = clock.t(native=steps).float()
        assert torch.equal(clock.native(t).long(), steps)


class TestShape:
    @clocks
    def test_one_time_per_item(self, clock):
        t = torch.linspace(0.9, 0.1, 5)
        for name in ("alpha", "sigma", "logsnr", "native", "snap"):
            together = getattr(clock, name)(t)
            assert together.shape == (5,)
            alone = torch.stack([getattr(clock, name)(ti) for ti in t])
            torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)
        assert clock.t(logsnr=torch.zeros(5)).shape == (5,)
        assert clock.t(logsnr=torch.zeros(2, 3)).shape == (2, 3)
        assert clock.t(logsnr=0.0).shape == ()

    @clocks
    @pytest.mark.parametrize("kind", [list, np.array, tuple], ids=["list", "array", "tuple"])
    def test_numbers_become_float64(self, clock, kind):
        sigma = clock.sigma(kind([0.25, 0.5]))
        assert sigma.dtype == torch.float64
        assert sigma.shape == (2,)
        assert clock.sigma(1).dtype == torch.float64  # an integer too

    @clocks
    def test_zero_is_data(self, clock):
        assert float(clock.sigma(0.0)) == 0
        assert float(clock.alpha(0.0)) == 1
        assert float(clock.logsnr(0.0)) == math.inf
        assert float(clock.t(logsnr=math.inf)) == 0
        assert float(clock.t(sigma=0.0)) == 0

    def test_discrete_data_is_step_minus_one(self):
        clock = DiscreteVP.named("linear")
        assert float(clock.native(0.0)) == -1
        assert float(clock.t(native=-1)) == 0
        assert clock.t_min == 1e-3

    def test_between_steps_log_alpha_squared_is_linear(self):
        clock = DiscreteVP([0.1, 0.3])
        middle = float(clock.alpha(0.75)) ** 2
        assert middle == pytest.approx(0.9 * math.sqrt(0.7), rel=1e-14)

    def test_snap(self):
        clock = DiscreteVP.named("linear", 10)
        np.testing.assert_allclose(clock.snap([0.04, 0.16, 0.5]), [0.0, 0.2, 0.5], atol=1e-15)
        for other in (VP(), EDM(), RectifiedFlow()):
            assert float(other.snap(0.1234567)) == 0.1234567

    @clocks
    def test_config_names_every_setting(self, clock):
        config = clock.config()
        assert config["kind"] in {"vp", "ddpm", "edm", "flow"}
        assert repr(clock).startswith(config["kind"])

    def test_variance_preserving(self):
        t = torch.linspace(0, 1, 101, dtype=torch.float64)
        for name in ("vp", "linear", "scaled_linear", "cosine"):
            total = CLOCKS[name].alpha(t) ** 2 + CLOCKS[name].sigma(t) ** 2
            torch.testing.assert_close(total, torch.ones_like(t), rtol=1e-14, atol=0)


class TestErrors:
    def test_exactly_one_clock(self, refuses):
        with refuses("exactly one of .* 0 were given"):
            VP().t()
        with refuses("2 were given"):
            VP().t(logsnr=0.0, sigma=1.0)

    def test_edm_has_no_alpha(self, refuses):
        with refuses("alpha"):
            EDM().t(alpha=0.5)

    @pytest.mark.parametrize("ends", [(0.0, 20.0), (3.0, 1.0), (math.nan, 1.0)])
    def test_vp(self, refuses, ends):
        with refuses("beta_min, beta_max are"):
            VP(*ends)

    @pytest.mark.parametrize("betas", [[], [0.0, 0.1], [1.0, 0.5], [0.5, 1.1], [math.nan]])
    def test_betas(self, refuses, betas):
        with refuses("betas"):
            DiscreteVP(betas)

    def test_family(self, refuses):
        with refuses("schedule is 'quadratic'; accepted: linear, scaled_linear, cosine"):
            DiscreteVP.named("quadratic")

    @pytest.mark.parametrize("settings", [(0.0, 80.0, 7.0), (80.0, 0.002, 7.0), (0.002, 80.0, 0.0)])
    def test_edm(self, refuses, settings):
        with refuses("sigma_min, sigma_max, rho are"):
            EDM(*settings)
