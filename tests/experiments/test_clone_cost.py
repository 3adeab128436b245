"""What a sweep of clones costs, counted at the network itself: one trunk for all, then the branches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_pipelines import tiny_sd
from torch import nn

import turningpoint as tp

STEPS, TIMES = 40, np.linspace(0.05, 0.95, 20)


class Counting(nn.Module):
    """A small network of latents (1, 4, 4) and labels, that keeps what it was called with."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.mix = torch.randn(16, 16, generator=generator) / 8
        self.told = torch.randn(4, 1, 4, 4, generator=generator) / 4
        self.calls = []

    def forward(self, x_t, step, label):
        self.calls.append(x_t.flatten(1).any(1))  # padding is zero
        mixed = torch.tanh(x_t.flatten(1) @ self.mix).reshape(x_t.shape)
        return mixed + self.told[label] * (step / 1000).to(x_t)[:, None, None, None]


class Latent(tp.NetworkDenoiser):
    """Pictures (1, 8, 8) repeat a latent's numbers."""

    def __init__(self):
        super().__init__(
            Counting(), tp.DiscreteVP.named("linear"), (1, 4, 4), predicts="epsilon", n_classes=3
        )

    @property
    def decoded_shape(self):
        return (1, 8, 8)

    def decode(self, x_0):
        return x_0.repeat_interleave(2, 2).repeat_interleave(2, 3)


def branch_steps(run):
    """The steps that are left at each parting time, from the times alone: the grid is uniform."""
    visited = 1 - np.arange(STEPS) / STEPS
    return [STEPS - int(np.abs(visited - t).argmin()) for t in run.times]


@pytest.mark.parametrize("guidance", [None, 2.5])
@pytest.mark.parametrize(("n", "copies", "batch"), [(1, 1, 2), (1, 1, 64), (3, 2, 16)])
def test_rows_and_calls(guidance, n, copies, batch):
    model = Latent()
    told = {} if guidance is None else {"label": 1, "guidance": guidance}
    settings = {"grid": "uniform", "steps": STEPS, "batch": batch, "progress": None}
    run = tp.clone(model, n, times=TIMES, copies=copies, **settings, **told)
    left = branch_steps(run)
    assert len(left) == 20
    trunk_and_branches = n * (STEPS + copies * sum(left))
    calls = model.network.calls
    pair = 1 if guidance is None else 2  # guidance asks twice, in one call
    assert sum(int(rows.sum()) for rows in calls) == pair * trunk_and_branches
    assert len(calls) <= trunk_and_branches
    # no call can be spared: a walk's steps follow one another, and a batch holds so many walks
    assert len(calls) >= max(STEPS, trunk_and_branches / batch)
    if n == 1 and batch == 64:
        assert len(calls) == STEPS, "20 clones go along beside their trunk, each in a slot of its own"
    if batch == 2:
        # with a trunk and one branch at a time, only the trunk's way to the first parting goes alone
        assert len(calls) <= trunk_and_branches / 2 + STEPS


@pytest.mark.parametrize("guidance", [None, 2.5])
def test_every_latent_is_that_of_a_single_clone(guidance):
    model = Latent()
    told = {} if guidance is None else {"label": [1, 2, 0], "guidance": guidance}
    settings = {"copies": 2, "grid": "uniform", "steps": STEPS, "batch": 6, "seed": 4, "progress": None}
    run = tp.clone(model, 3, times=TIMES, **settings, **told)
    in_all = len(model.network.calls)
    model.network.calls.clear()
    scale = np.sqrt(np.square(run.latents.values).mean())
    for k, t in enumerate(run.times):
        single = tp.clone(model, 3, times=[t], **settings, **told)
        for got, want in (
            (run.latents.values[:, :, k], single.latents.values[:, :, 0]),
            (run.start_latents.values, single.start_latents.values),
        ):
            # one rounding of float32 in each of 40 steps, which the network does not enlarge
            np.testing.assert_allclose(got, want, rtol=0, atol=STEPS * 1.2e-7 * scale)
    assert in_all < len(model.network.calls), "a trunk for each time costs more"
    assert len(np.unique(run.latents.values[..., 0, 0, 0])) == 3 * 2 * 20


def test_on_stable_diffusion_in_miniature(tmp_path):
    tiny_sd(tmp_path)
    model = tp.load(f"diffusers:{tmp_path}")
    rows = []
    hook = model.network.register_forward_pre_hook(lambda _, given: rows.append(given[0].flatten(1).any(1)))
    settings = {"prompt": "a car", "guidance": 7.5, "steps": 20, "batch": 8, "progress": None}
    run = tp.clone(model, 1, times=TIMES, **settings)
    hook.remove()
    visited = model.usual_grid("ddpm", 20).times(model.schedule)
    left = [20 - int(np.abs(visited - t).argmin()) for t in run.times]
    assert len(left) == 19, "t = 0.95 and 1 are one step of this grid"
    assert sum(int(call.sum()) for call in rows) == 2 * (20 + sum(left))
    single = tp.clone(model, 1, times=run.times[9:10], **settings | {"batch": 2})
    # one network call differs by up to 5e-5 of the root mean square between batch shapes, a chain by 2e-4
    rms = np.sqrt(np.square(single.latents.values).mean())
    np.testing.assert_allclose(run.latents.values[:, :, 9], single.latents.values[:, :, 0], atol=2e-4 * rms)
