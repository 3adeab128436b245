"""Respaced DDPMs against the tables of guided-diffusion: steps, betas, the posterior's coefficients."""

from pathlib import Path

import numpy as np
import pytest
import torch

from turningpoint.diffusion.forward import posterior
from turningpoint.diffusion.grid import Grid
from turningpoint.diffusion.schedule import DiscreteVP
from turningpoint.diffusion.spacing import respaced_steps

GOLDEN = Path(__file__).parents[1] / "models" / "golden" / "guided-diffusion" / "schedules.npz"
RESPACINGS = ["full", "250", "25", "10-20-30", "ddim50"]


@pytest.fixture(scope="module")
def tables():
    with np.load(GOLDEN) as held:
        return {name: held[name] for name in held}


@pytest.mark.parametrize("family", ["linear", "cosine"])
@pytest.mark.parametrize("respacing", RESPACINGS)
def test_published_tables(tables, family, respacing):
    want = {name.split("/")[1]: t for name, t in tables.items() if name.startswith(f"{family}_{respacing}/")}
    assert len(want) == 7
    clock = DiscreteVP.named(family)
    sections = "1000" if respacing == "full" else respacing.replace("-", ",")
    steps = respaced_steps(1000, sections)
    assert steps == want["timestep_map"].tolist()

    times = torch.from_numpy(Grid.respaced(sections).times(clock)[::-1].copy())
    s, t = times[:-1], times[1:]
    torch.testing.assert_close(clock.native(t), torch.tensor(steps, dtype=torch.float64), rtol=0, atol=0)
    kept = clock.alpha(t).square()
    of_x_0, of_x_t, variance = posterior(clock, t, s)
    got = {
        "alphas_cumprod": kept,
        "betas": 1 - kept / torch.cat([torch.ones(1), kept[:-1]]),
        "posterior_mean_coef1": of_x_0,
        "posterior_mean_coef2": of_x_t,
        "posterior_variance": variance,
        "posterior_log_variance_clipped": torch.cat([variance[1:2], variance[1:]]).log(),
    }
    for name, value in got.items():
        np.testing.assert_allclose(value, want[name], rtol=1e-10, atol=0, err_msg=name)


def test_every_table_was_compared(tables):
    names = {name.split("/")[0] for name in tables}
    assert names == {f"{family}_{respacing}" for family in ("linear", "cosine") for respacing in RESPACINGS}


@pytest.mark.parametrize("text", ["0", "1001", "10,", "ddim", "ddim0", "ddim300", "fast", "-5", "600,600"])
def test_what_cannot_be_had(refuses, text):
    with refuses("timestep_respacing is"):
        respaced_steps(1000, text)
