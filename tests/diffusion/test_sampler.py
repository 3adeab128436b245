"""Samplers: step by step beside diffusers and beside the papers' algorithms, and against closed forms."""

import itertools
import math

import diffusers
import numpy as np
import pytest
import torch
from worlds import Mixture

from turningpoint.diffusion.denoiser import expand
from turningpoint.diffusion.grid import Grid
from turningpoint.diffusion.sampler import DDIM, DDPM, SAMPLERS, Euler, Heun, sampler
from turningpoint.diffusion.schedule import EDM, VP, DiscreteVP, RectifiedFlow

SHAPE = (3, 2, 4, 4)
LINEAR = DiscreteVP.named("linear")


def normal(seed: int, shape=SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHT = normal(7, (4, 4)) / 2


def epsilon(x, t):
    """A fixed nonlinear network: (B, C, H, W), (B,) -> (B, C, H, W)."""
    return torch.tanh(x @ WEIGHT) * (0.4 + expand(t, x)) + 0.3 * x


def denoiser(clock):
    def denoise(x, t):
        return (x - expand(clock.sigma(t), x) * epsilon(x, t)) / expand(clock.alpha(t), x)

    return denoise


def bounded(x, t):
    """A denoiser that is defined at every sigma."""
    return torch.tanh(x @ WEIGHT / (1 + expand(t, x)))


def walk(method, denoise, x, times, clock, noise=None):
    """The states along ``times``; ``noise`` has one row per step."""
    states = [x]
    for k, (t, s) in enumerate(itertools.pairwise(times)):
        ones = torch.ones(len(x), dtype=torch.float64)
        z = None if noise is None else noise[k]
        x = method.step(denoise, x, t * ones, s * ones, clock, z)
        states.append(x)
    return states


def exact_tables(theirs):
    """Give a scheduler of diffusers float64 tables, so that only the formulas are compared."""
    theirs.betas = LINEAR.betas
    theirs.alphas = 1 - LINEAR.betas
    theirs.alphas_cumprod = theirs.alphas.cumprod(0)
    return theirs


def compare_with_diffusers(theirs, method, steps, **settings):
    theirs.set_timesteps(steps)
    times = Grid.explicit(LINEAR.t(native=theirs.timesteps.double()).tolist()).times(LINEAR)
    x, generator = normal(1), torch.Generator().manual_seed(5)
    states = [x]
    for n in theirs.timesteps:
        t = LINEAR.t(native=n.double()).expand(len(x))
        x = theirs.step(epsilon(x, t), n, x, generator=generator, **settings).prev_sample
        states.append(x)
    noise = None
    if method.stochastic:  # the same draws, in the same order, from the same generator
        generator = torch.Generator().manual_seed(5)
        noise = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in theirs.timesteps]
    ours = walk(method, denoiser(LINEAR), normal(1), times, LINEAR, noise)
    # float64 throughout; 1 / alpha(t = 1) = 157 and alpha products of 1000 factors lose four digits
    for mine, their in zip(ours, states, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-9, atol=1e-9)


class TestDiffusers:
    @pytest.mark.parametrize("spacing", ["trailing", "leading"])
    @pytest.mark.parametrize("steps", [5, 50])
    def test_ddpm(self, spacing, steps):
        theirs = diffusers.DDPMScheduler(
            variance_type="fixed_small", clip_sample=False, timestep_spacing=spacing
        )
        compare_with_diffusers(exact_tables(theirs), DDPM(), steps)

    @pytest.mark.parametrize("spacing", ["trailing", "leading"])
    @pytest.mark.parametrize("steps", [5, 50])
    @pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
    def test_ddim(self, spacing, steps, eta):
        theirs = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing=spacing, set_alpha_to_one=True)
        compare_with_diffusers(exact_tables(theirs), DDIM(eta), steps, eta=eta)

    def test_ddpm_with_their_own_tables(self):
        theirs = diffusers.DDPMScheduler(
            variance_type="fixed_small", clip_sample=False, timestep_spacing="trailing"
        )
        theirs.set_timesteps(20)
        t, x, z = torch.full((3,), 0.5, dtype=torch.float64), normal(1), normal(5)
        generator = torch.Generator().manual_seed(5)
        after = theirs.step(epsilon(x, t), 499, x, generator=generator).prev_sample
        ours = DDPM().step(denoiser(LINEAR), x, t, t - 0.05, LINEAR, z)
        torch.testing.assert_close(ours, after, rtol=1e-4, atol=1e-4)  # their tables are float32

    def test_euler(self):
        theirs = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
        theirs.set_timesteps(12)
        clock = EDM()
        times = Grid(12, "rho").times(clock)
        x = 80 * normal(1)
        ours = walk(Euler(), bounded, x, times, clock)
        x = x.float()
        for k, step in enumerate(theirs.timesteps):
            theirs.scale_model_input(x, step)
            sigma = theirs.sigmas[k]
            skip = 0.25 / (sigma**2 + 0.25)
            out = sigma * 0.5 / (sigma**2 + 0.25) ** 0.5
            t = clock.t(sigma=sigma.double()).expand(len(x))
            network = (bounded(x.double(), t).float() - skip * x) / out
            x = theirs.step(network, step, x).prev_sample
            # they compute in float32: 2^-24 of a state of up to sigma, a few roundings a step
            torch.testing.assert_close(x.double(), ours[k + 1], rtol=2e-5, atol=2e-5)


def karras_2(denoise, x, sigmas, noise, churn, low, high, spread, second_order):
    """Algorithm 2 of Karras et al. 2022 in numpy: sigma(t) = t, s(t) = 1."""
    n = len(sigmas) - 1
    for i in range(n):
        t, t_next = sigmas[i], sigmas[i + 1]
        gamma = min(churn / n, math.sqrt(2) - 1) if low <= t <= high else 0.0
        t_hat = t + gamma * t
        x_hat = x + math.sqrt(t_hat**2 - t**2) * spread * noise[i]
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (t_next - t_hat) * d
        if second_order and t_next != 0:
            d_next = (x - denoise(x, t_next)) / t_next
            x = x_hat + (t_next - t_hat) * (d + d_next) / 2
    return x


CHURNS = {
    "none": (0.0, 0.0, math.inf, 1.0),
    "some": (6.0, 0.0, math.inf, 1.0),
    "capped": (40.0, 0.05, 50.0, 1.003),
    "narrow": (4.0, 0.1, 1.0, 0.9),
}


class TestKarras:
    @pytest.mark.parametrize("churn", CHURNS.values(), ids=CHURNS.keys())
    @pytest.mark.parametrize("kind", [Euler, Heun])
    def test_edm(self, kind, churn):
        clock, steps = EDM(), 14
        times = Grid(steps, "rho").times(clock)
        noise = [normal(20 + k) for k in range(steps)]

        def denoise(x, sigma):
            t = clock.t(sigma=sigma).expand(len(x))
            return bounded(torch.from_numpy(x), t).numpy()

        sigmas = clock.sigma(times).tolist()
        plain = [z.numpy() for z in noise]
        expected = karras_2(denoise, 80 * normal(1).numpy(), sigmas, plain, *churn, kind is Heun)
        method = kind(*churn, churn_steps=steps)
        assert method.stochastic == (churn[0] > 0)
        got = walk(method, bounded, 80 * normal(1), times, clock, noise if method.stochastic else None)[-1]
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)  # float64, 80 / 0.002 of range

    @pytest.mark.parametrize("churn", [CHURNS["none"], CHURNS["some"]], ids=["none", "some"])
    @pytest.mark.parametrize("kind", [Euler, Heun])
    def test_vp_in_the_coordinates_x_over_alpha(self, kind, churn):
        clock, steps = VP(), 14
        times = Grid(steps, "rho").times(clock)
        noise = [normal(20 + k) for k in range(steps)]

        def denoise(x, sigma):
            t = clock.t(logsnr=-2 * math.log(sigma))
            return denoiser(clock)(clock.alpha(t) * torch.from_numpy(x), t.expand(len(x))).numpy()

        sigmas = (clock.sigma(times) / clock.alpha(times)).tolist()
        start = normal(1)
        plain = [z.numpy() for z in noise]
        scaled = (start / clock.alpha(1.0)).numpy()
        expected = karras_2(denoise, scaled, sigmas, plain, *churn, kind is Heun)
        method = kind(*churn, churn_steps=steps)
        got = walk(method, denoiser(clock), start, times, clock, noise if churn[0] else None)[-1]
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-8)  # float64, 157 / 0.01 of range

    def test_evaluations(self):
        calls = []

        def counting(x, t):
            calls.append(len(x))
            return bounded(x, t)

        times = Grid(6, "rho").times(EDM())
        walk(Heun(), counting, normal(1), times, EDM())
        assert len(calls) == 2 * 6 - 1  # one in the step to 0


class TestRelations:
    @pytest.mark.parametrize("clock", [VP(), LINEAR], ids=repr)
    def test_euler_is_ddim(self, clock):
        times = Grid(10).times(clock)
        one = walk(Euler(), denoiser(clock), normal(1), times, clock)
        other = walk(DDIM(), denoiser(clock), normal(1), times, clock)
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("clock", [VP(), LINEAR, EDM(), RectifiedFlow()], ids=repr)
    def test_ddim_with_eta_one_is_ddpm(self, clock):
        def denoise(x, t):
            return bounded(x, t)

        times, noise = Grid(10).times(clock), [normal(20 + k) for k in range(10)]
        one = walk(DDIM(1.0), denoise, normal(1), times, clock, noise)
        other = walk(DDPM(), denoise, normal(1), times, clock, noise)
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("name", SAMPLERS.names())
    @pytest.mark.parametrize("clock", [VP(), LINEAR, EDM(), RectifiedFlow()], ids=repr)
    def test_items_at_their_own_times(self, name, clock):
        method = sampler(name, steps=10, **({"churn": 3.0} if name in {"euler", "heun"} else {}))
        x, z = normal(1, (6, 4, 4)), normal(2, (6, 4, 4))
        t = torch.tensor([1.0, 0.9, 0.5, 0.2, 0.2, 0.05], dtype=torch.float64)
        s = torch.tensor([0.8, 0.0, 0.4, 0.1, 0.0, 0.01], dtype=torch.float64)
        together = method.step(bounded, x, t, s, clock, z)
        for i in range(6):
            one = slice(i, i + 1)
            alone = method.step(bounded, x[one], t[one], s[one], clock, z[one])
            torch.testing.assert_close(together[one], alone, rtol=1e-12, atol=1e-12)
        assert torch.isfinite(together).all()

    @pytest.mark.parametrize("name", SAMPLERS.names())
    def test_inputs_are_left_alone(self, name):
        x, z, t = normal(1), normal(2), torch.full((3,), 0.5, dtype=torch.float64)
        before = x.clone()
        sampler(name).step(bounded, x, t, t / 2, VP(), z)
        assert torch.equal(x, before)

    @pytest.mark.parametrize("name", ["ddpm", "ddim", "euler", "heun"])
    def test_the_last_step_of_a_known_image_is_the_image(self, name):
        image = normal(3)
        t = torch.full((3,), 0.3, dtype=torch.float64)
        result = sampler(name).step(lambda x, t: image, normal(1), t, 0 * t, VP(), normal(2))
        torch.testing.assert_close(result, image, rtol=0, atol=1e-12)


class TestGaussian:
    """N(mean, std^2): everything is linear, and known."""

    @pytest.mark.parametrize(("steps", "percent"), [(18, "4.5"), (40, "0.80"), (80, "0.19"), (160, "0.05")])
    def test_amplitude_error_of_edm_heun(self, steps, percent):
        clock = EDM()
        world = Mixture([[0.0]], std=1.0, schedule=clock)
        x = torch.full((1, 1), 80.0, dtype=torch.float64)
        end = float(walk(Heun(), world, x, Grid(steps, "rho").times(clock), clock)[-1])
        error = 100 * abs(end / (80.0 / math.sqrt(80.0**2 + 1)) - 1)
        assert abs(error - float(percent)) <= 0.5 * 10.0 ** -len(percent.partition(".")[2])

    def test_heun_is_of_second_order_and_euler_of_first(self):
        clock = EDM()
        world = Mixture([[0.0]], std=1.0, schedule=clock)
        exact = 80.0 / math.sqrt(80.0**2 + 1)
        x = torch.full((1, 1), 80.0, dtype=torch.float64)

        def error(method, steps):
            return abs(float(walk(method, world, x, Grid(steps, "rho").times(clock), clock)[-1]) / exact - 1)

        assert error(Heun(), 160) / error(Heun(), 320) == pytest.approx(4, rel=0.05)
        assert error(Euler(), 640) / error(Euler(), 1280) == pytest.approx(2, rel=0.05)

    @pytest.mark.parametrize("clock", [VP(), LINEAR, EDM(), RectifiedFlow()], ids=repr)
    def test_ancestral_moments_without_sampling(self, clock):
        """A step is x -> a x + b + c z: its coefficients give the moments of a U-turn."""
        mean, std = 0.7, 0.6
        world = Mixture([[mean]], std=std, schedule=clock)
        t_start = float(clock.t(logsnr=-0.5))
        x_t = 1.3
        alpha, sigma = float(clock.alpha(t_start)), float(clock.sigma(t_start))
        total = alpha**2 * std**2 + sigma**2
        exact_mean = mean + alpha * std**2 / total * (x_t - alpha * mean)
        exact_var = std**2 * sigma**2 / total

        def moments(steps):
            m, v = x_t, 0.0
            # equal steps in log-SNR on every clock
            logsnr = torch.linspace(-0.5, 9.0, steps, dtype=torch.float64)
            times = [*clock.t(logsnr=logsnr).tolist(), 0.0]
            times[0] = t_start
            probe = torch.tensor([[m], [0.0], [1.0], [0.0]], dtype=torch.float64)
            z = torch.tensor([[0.0], [0.0], [0.0], [1.0]], dtype=torch.float64)
            for t, s in itertools.pairwise(times):
                ones = torch.ones(4, dtype=torch.float64)
                b, a, c = DDPM().step(world, probe, t * ones, s * ones, clock, z)[1:, 0].tolist()
                a, c = a - b, c - b
                m, v = a * m + b, a * a * v + c * c
            return abs(m - exact_mean), abs(v / exact_var - 1)

        coarse, fine = moments(100), moments(400)
        assert fine[0] < 0.01
        assert fine[1] < 0.02
        assert coarse[1] / fine[1] == pytest.approx(4, rel=0.1)  # of first order

    def test_ancestral_sampling_draws_the_posterior(self):
        mean, std, clock, count = torch.tensor([0.7, -0.2]), 0.6, VP(), 20_000
        world = Mixture(mean[None], std=std)
        start, x_t = 0.4, torch.tensor([1.3, -0.5])
        generator = torch.Generator().manual_seed(0)
        x = x_t.expand(count, 2)
        times, ones = Grid(800, "logsnr").below(start, clock), torch.ones(count, dtype=torch.float64)
        for t, s in itertools.pairwise(times):
            z = torch.randn(count, 2, generator=generator)
            x = DDPM().step(world, x, t * ones, s * ones, clock, z)
        alpha, sigma = float(clock.alpha(start)), float(clock.sigma(start))
        total = alpha**2 * std**2 + sigma**2
        exact_mean = mean + alpha * std**2 / total * (x_t - alpha * mean)
        exact_var = std**2 * sigma**2 / total
        # four standard errors, and the first-order bias of the steps
        assert ((x.mean(0) - exact_mean).abs() < 4 * math.sqrt(exact_var / count) + 0.002).all()
        assert ((x.var(0) / exact_var - 1).abs() < 4 * math.sqrt(2 / count) + 0.01).all()
        assert abs(float(torch.corrcoef(x.T)[0, 1])) < 4 / math.sqrt(count)


class TestMaking:
    @pytest.mark.parametrize("name", SAMPLERS.names())
    def test_by_name(self, name):
        method = sampler(name)
        assert type(method) is SAMPLERS[name]
        assert method.config()["name"] == name
        assert sampler(method) is method

    def test_settings(self):
        assert sampler("ddim", eta=0.3).config() == {"name": "ddim", "eta": 0.3}
        heun = sampler("heun", steps=32, churn=40, churn_min=0.05, churn_max=50, churn_noise=1.003)
        assert heun.steps == 32
        rebuilt = dict(heun.config())
        assert sampler(rebuilt.pop("name"), steps=32, **rebuilt).config() == heun.config()

    def test_stochastic(self):
        assert [SAMPLERS[n]().stochastic for n in ("ddpm", "ddim", "euler", "heun")] == [True, *[False] * 3]
        assert DDIM(0.1).stochastic
        assert Heun(churn=1.0).stochastic

    def test_errors(self, refuses):
        with refuses("sampler is 'dpm'; accepted: ddim, ddpm, euler, euler_ve"):
            sampler("dpm")
        with refuses("eta is given, but the sampler 'ddpm' takes variance"):
            sampler("ddpm", eta=1.0)
        with refuses("churn is given, but the sampler 'ddim' takes eta"):
            sampler("ddim", churn=1.0)
        with refuses("eta is 1.5; accepted: 0 to 1"):
            sampler("ddim", eta=1.5)
        with refuses("churn is -1"):
            sampler("euler", churn=-1)
        with refuses("stochastic: give its noise z"):
            half = torch.full((3,), 0.5)
            DDPM().step(bounded, normal(1), half, 0 * half, VP())
