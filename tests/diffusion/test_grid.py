"""Grids of times, as values."""

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from turningpoint.diffusion.grid import KINDS, Grid, as_grid
from turningpoint.diffusion.schedule import EDM, VP, DiscreteVP, RectifiedFlow

CLOCKS = [VP(), DiscreteVP.named("linear"), EDM(), RectifiedFlow()]
RULES = ["uniform", "logsnr", "rho"]


class TestTimes:
    @pytest.mark.parametrize("clock", CLOCKS, ids=repr)
    @pytest.mark.parametrize("kind", RULES)
    @pytest.mark.parametrize("steps", [1, 2, 3, 10, 40])
    def test_from_one_to_zero(self, clock, kind, steps):
        t = Grid(steps, kind).times(clock)
        assert t.dtype == np.float64
        assert (t[0], t[-1]) == (1.0, 0.0)
        assert (np.diff(t) < 0).all()
        if not isinstance(clock, DiscreteVP):  # there two times may be one native step
            assert len(t) == steps + 1

    def test_uniform(self):
        np.testing.assert_allclose(Grid(5).times(VP()), [1, 0.8, 0.6, 0.4, 0.2, 0], atol=1e-15)

    def test_logsnr_has_equal_steps(self):
        t = Grid(20, "logsnr").times(VP())
        assert t[-2] == VP().t_min
        steps = np.diff(VP().logsnr(t[:-1]))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-9)

    @pytest.mark.parametrize("clock", [VP(), EDM()], ids=repr)
    @pytest.mark.parametrize("rho", [3.0, 7.0])
    def test_rho_has_equal_steps(self, clock, rho):
        t = Grid(20, "rho", rho=rho).times(clock)
        ratio = (clock.sigma(t[:-1]) / clock.alpha(t[:-1])).numpy()
        steps = np.diff(ratio ** (1 / rho))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-8)

    @pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 50, 100, 333, 1000])
    def test_uniform_is_the_trailing_spacing(self, steps):
        theirs = diffusers.DDPMScheduler(timestep_spacing="trailing")
        theirs.set_timesteps(steps)
        clock = DiscreteVP.named("linear")
        ours = clock.native(Grid(steps).times(clock)[:-1]).numpy()
        np.testing.assert_allclose(ours, theirs.timesteps.numpy(), atol=1e-9)

    @pytest.mark.parametrize("kind", RULES)
    @pytest.mark.parametrize("steps", [7, 50, 300])
    def test_discrete_times_are_native_steps(self, kind, steps):
        clock = DiscreteVP.named("cosine")
        n = clock.native(Grid(steps, kind).times(clock)).numpy()
        np.testing.assert_allclose(n, np.rint(n), atol=1e-9)
        assert len(set(np.rint(n))) == len(n)

    def test_explicit(self):
        grid = Grid.explicit([0.1, 1.0, 0.3, 0.0, 0.3])
        assert (grid.kind, grid.steps) == ("explicit", 3)
        np.testing.assert_array_equal(grid.times(VP()), [1.0, 0.3, 0.1, 0.0])

    def test_explicit_takes_the_leading_spacing(self):
        theirs = diffusers.DDPMScheduler(timestep_spacing="leading")
        theirs.set_timesteps(10)
        clock = DiscreteVP.named("linear")
        grid = Grid.explicit(clock.t(native=theirs.timesteps.double()).tolist())
        n = clock.native(grid.times(clock)).numpy()
        np.testing.assert_allclose(n, [*theirs.timesteps.tolist(), -1], atol=1e-9)


class TestBelow:
    @given(start=st.floats(1e-3, 1.0), steps=st.integers(1, 60), kind=st.sampled_from(RULES))
    @settings(max_examples=80, deadline=None)
    def test_the_start_is_exactly_on_it(self, start, steps, kind):
        for clock in (VP(), DiscreteVP.named("linear")):
            full, part = Grid(steps, kind).times(clock), Grid(steps, kind).below(start, clock)
            assert part[0] == start
            assert part[-1] == 0
            assert (np.diff(part) < 0).all()
            assert set(part[1:]) <= set(full)
            assert len(part) == 1 + (full < start - 1e-9).sum()

    def test_at_a_grid_time_nothing_is_added(self):
        np.testing.assert_allclose(Grid(4).below(0.5, VP()), [0.5, 0.25, 0], atol=0)
        assert len(Grid(10).below(0.1 + 0.2, VP())) == 4  # 0.30000000000000004 is 0.3

    def test_the_whole_grid(self):
        np.testing.assert_array_equal(Grid(7, "rho").below(1.0, EDM()), Grid(7, "rho").times(EDM()))


class TestConfig:
    @pytest.mark.parametrize("grid", [Grid(5), Grid(5, "rho", rho=3.0), Grid(4, "logsnr")], ids=repr)
    def test_rebuilds_the_grid(self, grid):
        assert Grid(**grid.config()) == grid

    def test_rebuilds_an_explicit_grid(self):
        grid = Grid.explicit([1.0, 0.4])
        assert Grid.explicit(grid.config()["times"]) == grid

    def test_as_grid(self):
        grid = Grid(3, "rho")
        assert as_grid(grid, 99, "uniform") is grid
        assert as_grid(None, 5, "rho") == Grid(5, "rho")
        assert as_grid("logsnr", 5, "rho") == Grid(5, "logsnr")
        assert as_grid([0.5, 1.0], 99, "rho") == Grid.explicit([1.0, 0.5])

    def test_equal_grids_are_one_value(self):
        assert len({Grid(4), Grid(4), Grid(4, "rho")}) == 2


class TestErrors:
    @pytest.mark.parametrize("steps", [0, -3, 2.5, True])
    def test_steps(self, refuses, steps):
        with refuses(f"steps is {steps}; accepted: a whole number of at least 1"):
            Grid(steps)

    def test_whole_floats_are_numbers_of_steps(self):
        np.testing.assert_array_equal(Grid(2.0).times(VP()), [1.0, 0.5, 0.0])

    @pytest.mark.parametrize("steps", ["many", None, float("nan")])
    def test_steps_that_are_no_number(self, refuses, steps):
        with refuses("steps is"):
            Grid(steps)

    def test_kind(self, refuses):
        with refuses(f"grid is 'karras'; accepted: {', '.join(KINDS)}"):
            Grid(4, "karras")

    @pytest.mark.parametrize("times", [[], [0.0], [1.2, 0.5], [-0.1, 0.5], [float("nan")]])
    def test_explicit(self, refuses, times):
        with refuses("grid is"):
            Grid.explicit(times)

    def test_a_tensor_of_times(self):
        assert Grid.explicit(torch.tensor([1.0, 0.5])).steps == 2
