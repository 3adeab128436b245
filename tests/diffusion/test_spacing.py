"""Grids of a network's own steps, against diffusers' schedulers; zero terminal SNR; clocks with few levels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from turningpoint.diffusion.forward import posterior
from turningpoint.diffusion.grid import Grid
from turningpoint.diffusion.sampler import DDPM, Step, interpolated_log_variance, sampler
from turningpoint.diffusion.schedule import EDM, VP, DiscreteVP, RectifiedFlow, schedule_from

LINEAR = DiscreteVP.named("linear")
SPACINGS = [("leading", 0), ("leading", 1), ("linspace", 0), ("uniform", 0)]


@pytest.mark.parametrize("steps", [1, 2, 8, 25, 30, 48, 50, 61, 80, 96, 250, 1000])
@pytest.mark.parametrize(("kind", "offset"), SPACINGS)
def test_steps_are_those_of_diffusers(kind, offset, steps):
    spacing = "trailing" if kind == "uniform" else kind
    theirs = DDPMScheduler(timestep_spacing=spacing, steps_offset=offset)
    theirs.set_timesteps(steps)
    # leading with an offset overruns the last step at n = 1000, trailing the first at n = 61
    wanted = [min(int(t), 999) for t in theirs.timesteps if t >= 0]
    ours = Grid(steps, kind, offset=offset).times(LINEAR)
    assert ours[-1] == 0
    assert LINEAR.native(ours[:-1]).tolist() == sorted(set(wanted), reverse=True)


def test_a_walk_may_end_at_the_first_step():
    times = Grid(8, "uniform", end="first step").times(LINEAR)
    assert times[-1] == LINEAR.t_min
    assert len(times) == 9
    times = Grid(10, "leading", end="first step").times(LINEAR)
    assert LINEAR.native(times).tolist() == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]
    assert Grid(10, "leading", end="first step").below(LINEAR.t_min, LINEAR).tolist() == [LINEAR.t_min, 0.0]


@pytest.mark.parametrize(
    "grid",
    [
        Grid(8, "leading", offset=1),
        Grid(9, "rho", rho=5.0),
        Grid.respaced("10,15,20"),
        Grid.explicit([0.7, 0.2]),
        Grid(4, "uniform", end="first step"),
    ],
)
def test_a_grid_is_rebuilt_from_its_settings(grid):
    assert Grid.from_config(grid.config()) == grid


@pytest.mark.parametrize("kind", ["respaced", "leading", "linspace"])
def test_errors(kind, refuses):
    with refuses("discrete steps"):
        Grid(5, kind).times(VP())
    with refuses("1001"):
        Grid(1001, kind).times(LINEAR)
    with refuses("end is 'now'; accepted: data, first step"):
        Grid(5, kind, end="now")


@pytest.mark.parametrize("text", ["0", "1001", "ddim600", "ddim0", "600,600", "ten", "", "10,,10"])
def test_a_respacing_that_cannot_be(text, refuses):
    from turningpoint.diffusion.spacing import respaced_steps

    with refuses("timestep_respacing"):
        respaced_steps(1000, text)


class TestZeroTerminalSNR:
    THEIRS = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
                           rescale_betas_zero_snr=True, prediction_type="v_prediction",
                           timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True)  # fmt: skip
    CLOCK = DiscreteVP.from_alphas_cumprod(THEIRS.alphas_cumprod)

    def test_nothing_is_left_at_the_end(self):
        clock = self.CLOCK
        assert float(clock.alpha(1.0)) == 0
        assert float(clock.sigma(1.0)) == 1
        assert float(clock.logsnr(1.0)) == -math.inf
        assert float(clock.t(alpha=0.0)) == 1
        native = torch.arange(1000.0, dtype=torch.float64)
        t = clock.t(native=native)
        wanted = self.THEIRS.alphas_cumprod.double()
        torch.testing.assert_close(clock.alpha(t).square(), wanted, rtol=1e-12, atol=0)
        torch.testing.assert_close(clock.alphas_cumprod, wanted, rtol=1e-12, atol=0)
        torch.testing.assert_close(clock.t(logsnr=clock.logsnr(t)), t, rtol=1e-9, atol=0)

    def test_it_is_rebuilt_from_its_settings(self):
        again = schedule_from(self.CLOCK.config())
        torch.testing.assert_close(again.alphas_cumprod, self.CLOCK.alphas_cumprod, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("eta", [0.0, 1.0])
    def test_a_chain_from_it_is_that_of_diffusers(self, eta):
        """v = a fixed nonlinear function of state and step, from alpha = 0 down to the data."""

        def network(x, step):
            return torch.sin(3 * x + 0.001 * step)

        draws = torch.randn(9, 2, 5, generator=torch.Generator().manual_seed(0))
        self.THEIRS.set_timesteps(8)
        x = draws[0]
        for step, z in zip(self.THEIRS.timesteps, draws[1:], strict=True):
            x = self.THEIRS.step(network(x, step), step, x, eta=eta, variance_noise=z).prev_sample
        clock, ours = self.CLOCK, draws[0]
        grid = torch.from_numpy(Grid(8).times(clock))
        for t, s, z in zip(grid[:-1], grid[1:], draws[1:], strict=True):

            def denoise(y, at):
                v = network(y, clock.native(at)[0].float())
                return clock.alpha(at)[:, None].float() * y - clock.sigma(at)[:, None].float() * v

            ours = sampler("ddim", eta=eta).step(denoise, ours, t.expand(2), s.expand(2), clock, z)
        torch.testing.assert_close(ours, x, atol=2e-5, rtol=0)


class TestLevels:
    LEVELS = torch.tensor([0.01, 0.5, 3.0, 80.0], dtype=torch.float64)
    CLOCK = EDM(0.01, 80.0, levels=LEVELS)

    def test_times_are_put_on_them(self):
        sigma = torch.tensor([0.0, 0.009, 0.25, 0.26, 1.74, 1.76, 79.0, 99.0], dtype=torch.float64)
        snapped = self.CLOCK.sigma(self.CLOCK.snap(self.CLOCK.t(sigma=sigma)))
        assert snapped.numpy().round(9).tolist() == [0.01, 0.01, 0.01, 0.5, 0.5, 3.0, 80.0, 80.0]

    def test_grids_visit_them_only(self):
        visited = self.CLOCK.sigma(Grid(40, "rho").times(self.CLOCK)[:-1]).numpy()
        assert {round(float(s), 6) for s in visited} == {0.01, 0.5, 3.0, 80.0}

    def test_it_is_rebuilt_from_its_settings(self):
        again = schedule_from(self.CLOCK.config())
        assert again.levels.tolist() == self.LEVELS.tolist()


class TestPosterior:
    @pytest.mark.parametrize("clock", [VP(), LINEAR, EDM(), RectifiedFlow()], ids=str)
    def test_it_is_that_of_a_gaussian(self, clock):
        """Bayes written out in one dimension: x_s given x_0 and x_t, by the product of two Gaussians."""
        t, s = 0.6, 0.25
        a_t, s_t, a_s, s_s = (float(f(u)) for u in (t, s) for f in (clock.alpha, clock.sigma))
        ratio = a_t / a_s
        step = s_t**2 - ratio**2 * s_s**2
        precision = 1 / s_s**2 + ratio**2 / step
        wanted = a_s / s_s**2 / precision, ratio / step / precision, 1 / precision
        assert [float(v) for v in posterior(clock, t, s)] == pytest.approx(wanted, rel=1e-9)

    @pytest.mark.parametrize("variance", ["small", "large", "learned"])
    def test_variances_of_ancestral_sampling(self, variance):
        t, s = torch.tensor([0.5, 0.3]).double(), torch.tensor([0.4, 0.05]).double()
        v = torch.linspace(-1, 1, 6).reshape(2, 3)
        at = Step(torch.zeros(2, 3), t, s, torch.ones(2, 3), torch.zeros(2, 0, 3), LINEAR, v)
        ratio = (LINEAR.alpha(t) / LINEAR.alpha(s)).square()
        large = (1 - ratio).float()[:, None]
        small = (1 - ratio).float()[:, None] * (LINEAR.sigma(s) / LINEAR.sigma(t)).square().float()[:, None]
        wanted = {"small": small, "large": large, "learned": small ** ((1 - v) / 2) * large ** ((1 + v) / 2)}
        x_s, _ = DDPM(variance).update(0, at, torch.zeros(2, 3))
        torch.testing.assert_close(x_s.square(), wanted[variance].expand(2, 3), rtol=1e-5, atol=0)

    def test_no_noise_in_the_step_to_the_data(self):
        zero = torch.zeros(2).double()
        at = Step(
            torch.zeros(2, 3),
            zero + 0.1,
            zero,
            torch.ones(2, 3),
            torch.zeros(2, 0, 3),
            LINEAR,
            torch.ones(2, 3),
        )
        for variance in ("small", "large", "learned"):
            assert DDPM(variance).update(0, at, torch.zeros(2, 3))[0].abs().max() == 0

    def test_interpolation_at_its_ends(self):
        small, large = torch.tensor(-3.0), torch.tensor(-1.0)
        assert interpolated_log_variance(small, large, torch.tensor(-1.0)) == small
        assert interpolated_log_variance(small, large, torch.tensor(1.0)) == large

    def test_errors(self, refuses):
        with refuses("variance is 'huge'; accepted: small, large, learned"):
            sampler("ddpm", variance="huge")


def test_sampling_starts_from_unit_noise_where_variance_is_preserved():
    assert float(VP().start_std(1.0)) == float(LINEAR.start_std(0.877)) == 1
    assert float(EDM().start_std(1.0)) == pytest.approx(80)
    assert float(RectifiedFlow().start_std(1.0)) == 1
    assert np.isclose(float(EDM().start_std(EDM().t(sigma=20.0))), 20)


@pytest.mark.parametrize("kind", ["vp", "ve", "iddpm"])
def test_noise_levels_of_table_1_are_grids(kind):
    from turningpoint.diffusion.discretization import karras_grid

    clock = EDM(0.02, 75.0)
    np.testing.assert_array_equal(Grid(6, kind).times(clock), karras_grid(clock, kind, 6).times(clock))
    assert Grid.from_config(Grid(6, kind).config()) == Grid(6, kind)


def test_times_that_there_are_not(refuses):
    with refuses("sigma is 2.0, which this clock shows at no time"):
        LINEAR.t(sigma=2.0)
    with refuses("sigma is -1.0"):
        EDM().t(sigma=-1.0)
    assert float(LINEAR.t(alpha=0.0)) == math.inf


def test_one_step_to_the_first_step():
    assert Grid(1, "leading", end="first step").times(LINEAR).tolist() == [LINEAR.t_min, 0.0]
